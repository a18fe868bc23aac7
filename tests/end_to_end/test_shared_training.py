"""Jobs whose replicas have two workers: the results of one worker, and the loss of a worker."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import pytest

from drmad_client.errors import JobWarning, UnprocessableEntity
from drmad_client.http.client import Client
from drmad_client.records.status import JobStatus
from tests.end_to_end.running import WAIT_S, Service, descendants
from tests.end_to_end.test_lifecycle import committed, numbers, until, vector

SHARED: dict[str, Any] = {"replicas": {"workers": 2}, "resources": {"cpus": 2}}


def spec(**changes: Any) -> dict[str, Any]:
    return {
        "problem": {"data": {"name": "digits", "train": 400, "valid": 100, "test": 100}},
        "hyperparameters": [{"kind": "sample_weight"}, {"kind": "l2"}],
        "training": {"steps": 20, "batch_size": 50, "precision": "float64"},
        "hypergradient": {"method": "replay"},
        "meta": {"iterations": 4},
    } | changes


@pytest.mark.full
def test_a_job_of_two_workers_has_the_results_of_one(client: Client) -> None:
    one, two = (
        client.jobs.wait(client.jobs.create(spec(**parts)).id, timeout_s=WAIT_S)
        for parts in ({}, SHARED)
    )
    assert two.status is JobStatus.SUCCEEDED
    assert two.confirmation is not None
    for found, expected in zip(numbers(client, two), numbers(client, one), strict=True):
        assert found == pytest.approx(expected, rel=1e-9)
    tuned = vector(client, one)
    error = np.linalg.norm(vector(client, two) - tuned) / np.linalg.norm(tuned)
    assert error < 1e-9


def test_a_lost_worker_is_a_lost_replica_and_the_job_goes_on(
    service: Service, client: Client
) -> None:
    changes = SHARED | {"meta": {"iterations": 30, "confirmation": 0.0}}
    undisturbed = client.jobs.wait(client.jobs.create(spec(**changes)).id, timeout_s=WAIT_S)
    job = client.jobs.create(spec(**changes))
    until(client, job, committed(2))
    os.kill(following(service), signal.SIGKILL)
    with pytest.warns(JobWarning, match="a replica was lost"):
        ended = client.jobs.wait(job.id, timeout_s=WAIT_S)
    assert ended.status is JobStatus.SUCCEEDED
    assert numbers(client, ended) == numbers(client, undisturbed)
    assert np.array_equal(vector(client, ended), vector(client, undisturbed))
    built = [line.source for line in client.jobs.logs(job.id) if "is built on" in line.text]
    assert built.count("0") >= 2
    assert built.count("0.1") == built.count("0"), "each worker of each attempt"


def following(service: Service) -> int:
    """The process of a worker that computes its rows of a meta-iteration, as Ray names it."""
    assert service.process is not None
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for pid, command in descendants(service.process.pid).items():
            if "ray::Replica.follow" in command:
                return pid
        time.sleep(0.005)
    raise AssertionError("no worker follows another")


def test_a_model_that_workers_cannot_share_is_refused_with_its_field(client: Client) -> None:
    model = {"name": "cnn", "channels": [4], "batch_norm": True}
    problem = spec()["problem"] | {"model": model}
    with pytest.raises(UnprocessableEntity, match=r"problem.model.batch_norm.*must be false"):
        client.jobs.create(spec(problem=problem, **SHARED))
