"""Global before local: trials of a few scalars, and the gradient from the best of them."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from drmad_client.errors import JobFailed
from drmad_client.http.client import Client
from drmad_client.http.job_handle import Job
from drmad_client.records.search import Trial
from drmad_client.records.status import JobStatus
from tests.end_to_end.running import Service, descendants

JOB: dict[str, Any] = {
    "problem": {"data": {"name": "digits", "train": 300, "valid": 200, "test": 0}},
    "hyperparameters": [{"kind": "l2", "per": "layer", "init": -6.0}],
    "training": {"steps": 40, "batch_size": 30, "learning_rate": 0.001},
    "hypergradient": {"method": "replay"},
    "meta": {"iterations": 2},
    "search": {
        "trials": 6,
        "parameters": {
            "training.learning_rate": {"low": 0.001, "high": 0.2, "log": True},
            "hyperparameters[0].init": {"choices": [-6.0, -2.0, 20.0]},
            "problem.model.activation": {"choices": ["tanh", "relu"]},
        },
    },
}
SLOW = JOB | {"training": {"steps": 4000, "batch_size": 30, "learning_rate": 0.001}}
WAIT_S = 240


def outcomes(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.values, t.validation_loss) for t in trials]


def after_trials(client: Client, job: Job, count: int) -> Job:
    for event in client.jobs.events(job.id):
        if event.type == "trial" and event.data["number"] + 1 >= count:
            break
    return client.jobs.retrieve(job.id)


def test_the_gradient_takes_over_from_the_best_trial(client: Client, service: Service) -> None:
    job = client.jobs.create(JOB)
    job.wait(WAIT_S)
    trials = job.trials()
    assert [trial.number for trial in trials] == list(range(6))
    own = {
        "training.learning_rate": 0.001,
        "hyperparameters[0].init": -6.0,
        "problem.model.activation": "tanh",
    }
    assert trials[0].values == own  # the job as it stands
    assert {t.state for t in trials if t.values["hyperparameters[0].init"] == 20.0} <= {"diverged"}
    start = job.record.start
    assert start is not None
    losses = [t.validation_loss for t in trials if t.validation_loss is not None]
    assert start.validation_loss == min(losses) < losses[0]
    history = job.history()
    assert [record.iteration for record in history] == [0, 1]
    assert history[0].validation_loss == pytest.approx(start.validation_loss, rel=1e-5)
    first = job.hyperparameters(0, raw=True)["l2"]
    assert first.tolist() == [start.values["hyperparameters[0].init"]] * 2
    kinds = [event.type for event in client.jobs.events(job.id)]
    assert kinds.count("trial") == 6
    assert kinds.index("iteration") > max(i for i, kind in enumerate(kinds) if kind == "trial")
    assert kinds.index("start") < kinds.index("iteration")
    assert "searching" in [transition.reason for transition in job.record.transitions]
    assert "6 of 6 trials, best" in service.run("show", job.id).stdout
    printed = service.run("trials", job.id).stdout
    assert printed.count("training.learning_rate = ") == 6
    fork = client.jobs.fork(job.id, 1)
    fork.wait(WAIT_S)
    assert fork.trials() == []
    assert fork.history()[-1].validation_loss == history[1].validation_loss


@pytest.mark.full
def test_an_interrupted_search_goes_on_with_the_same_trials(
    client: Client, service: Service
) -> None:
    undisturbed = client.jobs.create(SLOW).wait(WAIT_S)
    job = client.jobs.create(SLOW)
    after_trials(client, job, 2).pause()
    while (status := client.jobs.retrieve(job.id).status) is not JobStatus.PAUSED:
        assert not status.is_terminal
        time.sleep(0.1)
    assert len(job.trials()) < 6
    assert job.history() == []
    job.resume()
    after_trials(client, job, 4)
    assert service.process is not None
    (scheduler,) = [
        pid for pid, command in descendants(service.process.pid).items() if " schedule " in command
    ]
    os.kill(scheduler, signal.SIGKILL)
    job.wait(WAIT_S)
    assert outcomes(job.trials()) == outcomes(undisturbed.trials())
    assert job.history()[-1].validation_loss == undisturbed.history()[-1].validation_loss


@pytest.mark.full
def test_a_search_is_cancelled_and_timed_out_like_anything_else(client: Client) -> None:
    job = client.jobs.create(SLOW)
    after_trials(client, job, 1).cancel()
    with pytest.raises(JobFailed) as caught:
        job.wait(WAIT_S)
    assert caught.value.job.status is JobStatus.CANCELLED
    assert 1 <= len(job.trials()) < 6
    late = client.jobs.create(SLOW | {"timeout_s": 2.0})
    with pytest.raises(JobFailed, match="timeout_s"):
        late.wait(WAIT_S)
    assert client.jobs.history(late.id) == []


def test_a_search_without_any_loss_fails_with_the_reason(client: Client, tmp_path: Path) -> None:
    search = {"trials": 2, "parameters": {"hyperparameters[0].init": {"low": 19, "high": 20}}}
    job = client.jobs.create(JOB | {"search": search})
    with pytest.raises(JobFailed) as caught:
        job.wait(WAIT_S)
    error = caught.value.job.error
    assert error is not None
    assert error.code == "search_failed"
    assert "none of the 2 trials" in error.message
    assert [trial.state for trial in job.trials()] == ["diverged"] * 2


@pytest.mark.full
def test_trials_run_side_by_side_in_the_places_of_the_replicas(client: Client) -> None:
    training = JOB["training"] | {"steps": 1000}
    two = {"training": training, "replicas": {"count": 2}, "meta": {"iterations": 1}}
    job = client.jobs.create(JOB | two).wait(2 * WAIT_S)
    trials = sorted(job.trials(), key=lambda trial: trial.at)
    overlaps = [
        later.at.timestamp() - later.seconds < earlier.at.timestamp()
        for earlier, later in itertools.pairwise(trials)
    ]
    assert any(overlaps)
    assert [trial.number for trial in job.trials()] == list(range(6))
