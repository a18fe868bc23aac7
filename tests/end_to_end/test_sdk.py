"""Every method of both clients, and every command, against the service itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from drmad_client.errors import Conflict, NotFound, UnprocessableEntity
from drmad_client.export import pytorch
from drmad_client.http.client import Client
from drmad_client.http.job_handle import Job
from drmad_client.plots import figures
from drmad_client.records.events import Event
from drmad_client.records.status import JobStatus
from tests.client.http.both import clients
from tests.end_to_end.running import WAIT_S, Service
from tests.end_to_end.test_tuning import example

SHORT = {
    "training": {"steps": 40, "batch_size": 50},
    "hypergradient": {"method": "shortcut", "horizon": 20},
    "meta": {"iterations": 3},
}


ASYNC = pytest.mark.parametrize(
    "client", ["async", pytest.param("sync", marks=pytest.mark.full)], indirect=True
)
"""For tests that run jobs: the other files run theirs by the synchronous client."""


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, service: Service) -> Iterator[Client]:
    with clients(request.param) as make:
        yield make(service.url, service.key)


@pytest.fixture(scope="module")
def finished(service: Service) -> str:
    """A short job that has succeeded."""
    with service.client() as client:
        return client.jobs.create(short(tags={"from": "sdk"})).wait(WAIT_S).id


def short(**changes: Any) -> dict[str, Any]:
    return example("clean-digits.yaml") | SHORT | changes


def test_every_view_of_a_job_is_available(client: Client, finished: str, tmp_path: Path) -> None:
    job = client.jobs.retrieve(finished)
    assert job.status is JobStatus.SUCCEEDED
    assert finished in [listed.id for listed in client.jobs.list("succeeded", "from:sdk", limit=1)]
    events = list(job.stream())
    assert [e.data["iteration"] for e in events if e.type == "iteration"] == [0, 1, 2]
    assert list(job.stream(after=events[2].id)) == events[3:]
    history = job.history()
    assert [record.iteration for record in history] == [0, 1, 2]
    assert [record.cosine_to_previous is None for record in history] == [True, False, False]
    best = [record for record in history if record.is_best][-1]
    check = job.record.preflight
    assert check is not None
    assert check.hyperparameters == {"sample_weight": [1000]}
    assert (check.job_seconds or 0.0) > 0.0
    assert job.best is not None
    assert job.best.validation_loss == best.validation_loss
    raw, tuned = job.hyperparameters("last", raw=True), job.hyperparameters("last")
    expected = 1 / (1 + np.exp(-raw["sample_weight"]))
    np.testing.assert_allclose(tuned["sample_weight"], expected, rtol=1e-6)
    gradient = job.hypergradients(2)["sample_weight"]
    norm = history[2].hypergradient_norm
    np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-5)
    assert pytorch.state_dict(job.model())["0.weight"].shape == (50, 64)
    assert all(line.replica == 0 for line in job.logs())
    for name, kind in figures.FIGURES.items():
        assert job.figure(name).layout.title.text == kind.title
    assert len(job.figure("losses").data[0].x) == 3
    assert {path.name for path in job.save(tmp_path)} >= {"job.yaml", "history.csv"}
    assert yaml.safe_load((tmp_path / "job.yaml").read_text())["name"] == "clean-digits"


@ASYNC
def test_a_job_passes_its_preflight_and_reports_its_search(client: Client) -> None:
    report = client.jobs.check(short())
    assert report.hyperparameters == {"sample_weight": [1000]}
    rates = {"training.learning_rate": {"low": 0.01, "high": 0.2, "log": True}}
    job = client.jobs.create(short(search={"trials": 2, "parameters": rates})).wait(WAIT_S)
    assert [trial.number for trial in job.trials()] == [0, 1]
    assert len(job.history()) == 3


def test_the_service_is_asked_what_it_offers_and_holds(client: Client) -> None:
    assert "digits" in [data["name"] for data in client.catalog()["data"]]
    assert client.cluster().cpus > 0
    assert client.jobs.validate(short()).meta.iterations == 3
    with pytest.raises(UnprocessableEntity) as caught:
        client.jobs.validate(short(training={"steps": -1}))
    assert [error.path for error in caught.value.errors] == ["training.steps"]
    with pytest.raises(NotFound):
        client.jobs.retrieve("job_00000000000000000000000000")


def until(job: Job, is_there: Callable[[Event], bool]) -> Event:
    return next(event for event in job.stream() if is_there(event))


@ASYNC
def test_a_job_is_paused_resumed_extended_forked_and_deleted(client: Client) -> None:
    job = client.jobs.create(short(meta={"iterations": 30}))
    until(job, lambda event: event.type == "iteration")
    assert job.pause().status in (JobStatus.PAUSING, JobStatus.PAUSED)
    until(job, lambda event: event.data.get("status") == "paused")
    with pytest.raises(Conflict):
        job.extend(1)
    with pytest.raises(Conflict):
        job.delete()
    assert job.resume().status in (JobStatus.QUEUED, JobStatus.STARTING)
    assert job.wait(WAIT_S).progress.iteration == 30
    assert job.extend(1).status in (JobStatus.QUEUED, JobStatus.STARTING)
    assert job.wait(WAIT_S).progress.iteration == 31
    events = list(job.stream())
    assert [e.data["iteration"] for e in events if e.type == "iteration"] == list(range(31))
    forked = client.jobs.fork(job.id, 28, {"meta": {"iterations": 30}, "name": "forked"})
    assert (forked.name, forked.wait(WAIT_S).progress.iteration) == ("forked", 30)
    losses = [[r.validation_loss for r in j.history()][:30] for j in (job, forked)]
    assert losses[0][28:] == losses[1][-2:]  # the same numbers from there on
    for done in (job, forked):
        done.delete()
        with pytest.raises(NotFound):
            done.reload()


@ASYNC
def test_a_job_is_cancelled(client: Client) -> None:
    job = client.jobs.create(short(training={"steps": 1_000_000, "batch_size": 50}))
    until(job, lambda event: event.data.get("status") == "running")
    assert job.cancel().status is JobStatus.CANCELLING
    until(job, lambda event: event.data.get("status") == "cancelled")
    assert job.reload().status is JobStatus.CANCELLED


@ASYNC
def test_one_idempotency_key_is_one_job(client: Client) -> None:
    key = f"sdk-{id(client)}"
    one, other = (client.jobs.create(short(), idempotency_key=key) for _ in range(2))
    assert one.id == other.id
    one.wait(WAIT_S)


def test_commands_answer_what_the_clients_answer(service: Service, finished: str) -> None:
    with service.client() as client:
        history = client.jobs.history(finished)
        gradient = client.jobs.hypergradients(finished, "last")["sample_weight"]

    def run(*arguments: str) -> str:
        done = service.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        return done.stdout

    assert finished in run("jobs", "--tag", "from:sdk")
    assert json.loads(run("show", finished, "-o", "json"))["id"] == finished
    assert len(run("history", finished).splitlines()) == len(history) + 1
    assert json.loads(run("hypergradients", finished, "-o", "json"))["sample_weight"] == (
        gradient.tolist()
    )
    *_, ended, confirmed = run("watch", finished).splitlines()
    assert ended.startswith("succeeded")
    assert confirmed.startswith("not confirmed: meta.confirmation 0.1 allows 0 more")
    assert run("logs", finished, "--follow") == run("logs", finished)
    assert json.loads(run("figure", finished, "seconds"))["layout"]["title"]["text"]
    assert "digits" in run("catalog")
    assert "reserved for jobs" in run("cluster")
    assert "best.validation_loss" in run("diff", finished, finished)
