"""Online jobs on a service: their numbers are those of `tune`, however they are interrupted."""

from __future__ import annotations

from typing import Any

import numpy as np

from drmad_client.http.client import Client
from drmad_client.records.status import JobStatus
from drmad_workers import spec_adapter, tune
from tests.end_to_end.test_lifecycle import committed, done, entered, numbers, until, vector

WINDOWS = 12


def spec(**changes: Any) -> dict[str, Any]:
    """A job of twelve windows of ten steps; checkpoints before the windows 5 and 10."""
    return {
        "problem": {"data": {"name": "digits", "label_noise": 0.5}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"optimizer": "adam", "learning_rate": 0.01, "steps": 120, "batch_size": 50},
        "meta": {"mode": "online", "window": 10, "checkpoint_every": 5},
        "resources": {"cpus": 0.5},
    } | changes


def test_an_online_job_is_tune_and_goes_on_after_pause_extension_and_fork(client: Client) -> None:
    job = client.jobs.create(spec())
    until(client, job, committed(6))
    client.jobs.pause(job.id)
    until(client, job, entered(JobStatus.PAUSED))
    paused = client.jobs.retrieve(job.id).progress.iteration
    assert 7 <= paused < WINDOWS
    client.jobs.resume(job.id)
    ended = done(client, job)
    assert (ended.status, ended.progress.iterations) == (JobStatus.SUCCEEDED, WINDOWS)
    history = numbers(client, ended)

    stated = ended.spec
    problem = spec_adapter.problem(stated, None, None)
    parts = spec_adapter.kinds(stated), spec_adapter.training(stated), None
    whole = tune(problem, *parts, spec_adapter.meta(stated), seed=stated.seed)
    assert [loss for _, loss, _ in history] == [e.validation_loss for e in whole.evaluations]
    assert ended.best is not None
    assert ended.best.iteration == WINDOWS - 1
    assert ended.best.validation_loss == whole.evaluations[-1].validation_loss
    assert {"validation_error", "test_error"} <= ended.best.metrics.keys()
    model = client.jobs.model(job.id)
    assert all(np.array_equal(model[n], v.numpy()) for n, v in whole.evaluations[-1].model.items())

    forked = done(client, client.jobs.fork(job.id, 8))
    assert numbers(client, forked) == history[8:]
    assert np.array_equal(vector(client, forked), vector(client, ended))

    longer = done(client, client.jobs.extend(job.id, 2))  # the begin of a second training run
    second = tune(problem, *parts, spec_adapter.meta(stated), seed=stated.seed, state=whole.state)
    later = [loss for _, loss, _ in numbers(client, longer)[WINDOWS:]]
    assert later == [e.validation_loss for e in second.evaluations[:2]]


def test_a_horizon_beyond_the_window_goes_on_after_a_pause(client: Client) -> None:
    """And the weights are pulled towards those of their class, which only the replica knows."""
    changes = {"hypergradient": {"method": "stored", "horizon": 25}} | {
        "hyperparameters": [{"kind": "sample_weight", "pull_to": "class"}],
        "meta": spec()["meta"] | {"regularization": 100.0},
    }
    job = client.jobs.create(spec(**changes))
    until(client, job, committed(6))
    client.jobs.pause(job.id)
    until(client, job, entered(JobStatus.PAUSED))
    client.jobs.resume(job.id)
    ended = done(client, job)
    stated = ended.spec
    problem = spec_adapter.problem(stated, None, None)
    whole = tune(
        problem,
        spec_adapter.kinds(stated),
        spec_adapter.training(stated),
        spec_adapter.method(stated.hypergradient),
        spec_adapter.meta(stated),
        seed=stated.seed,
    )
    history = numbers(client, ended)
    assert [loss for _, loss, _ in history] == [e.validation_loss for e in whole.evaluations]
    assert [e.backward_steps for e in whole.evaluations] == [10, 20, *[25] * 10]


def test_replicas_of_an_online_job_take_their_windows_side_by_side(client: Client) -> None:
    job = done(client, client.jobs.create(spec(replicas={"count": 2})))
    assert job.status is JobStatus.SUCCEEDED
    first = next(iter(client.jobs.history(job.id)))
    losses = [each.validation_loss for each in first.replicas]
    assert len(set(losses)) == 2
    assert first.validation_loss == sum(losses) / 2
