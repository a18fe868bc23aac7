"""A replica of several workers on a real Ray: its results, and the loss of one of its workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from drmad_client.spec.job import JobSpec
from drmad_service.ray_driver.ray_errors import failure_of
from drmad_service.scheduling.printed_lines import request_remains
from drmad_service.scheduling.replica_group import ReplicaGroup
from drmad_service.store.jobs.placement import Placed
from drmad_workers.ray_actor.failures import REPLICA_LOST
from drmad_workers.ray_actor.messages import Failure, PackedState, Prepared
from tests.driver_here import DriverHere

TIMEOUT_S = 300

JOB: dict[str, Any] = {
    "problem": {
        "model": {"name": "mlp", "hidden": [8]},
        "data": {"name": "digits", "train": 200, "valid": 60, "test": 0},
    },
    "hyperparameters": [{"kind": "l2"}, {"kind": "sample_weight"}],
    "training": {"steps": 10, "batch_size": 20, "precision": "float64"},
    "hypergradient": {"method": "replay"},
}


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """The id of the only node, with six CPUs."""
    ray.init(address="local", num_cpus=6, log_to_driver=False, logging_level=logging.ERROR)
    yield ray.nodes()[0]["NodeID"]  # type: ignore[no-untyped-call]
    ray.shutdown()


def started(node: str, count: int, workers: int) -> ReplicaGroup:
    """The prepared replicas, with the reservation that their workers need."""
    parts = {"replicas": {"count": count, "workers": workers}, "resources": {"cpus": workers}}
    driver: Any = DriverHere()
    group = ReplicaGroup(JobSpec.model_validate(JOB | parts), driver, [], "", None)
    ready = group.reserve([Placed(node, count)])
    if ready is not None:
        ray.get(ready, timeout=TIMEOUT_S)
    group.create()
    return group


def prepared(group: ReplicaGroup) -> PackedState:
    answers = ray.get([actor.prepare.remote() for actor in group.actors], timeout=TIMEOUT_S)
    for answer in answers:
        assert isinstance(answer, Prepared), answer
    start: PackedState = answers[0].start
    return start


def evaluated(group: ReplicaGroup, state: PackedState) -> list[Any]:
    asked = [actor.meta_iteration.remote(state, 0, 1) for actor in group.actors]
    found = ray.get([result for _, result in asked], timeout=TIMEOUT_S)
    for results in found:
        assert not isinstance(results, Failure), results
    return [result.evaluation for results in found for result in results]


def test_replicas_of_two_workers_return_what_those_of_one_return(node: str) -> None:
    evaluations = {}
    for workers in (1, 2):
        group = started(node, 2, workers)
        reservation: Any = group._group
        assert reservation.group.bundle_specs == [{"CPU": 1.0}] * 2 * workers
        evaluations[workers] = evaluated(group, prepared(group))
        group.kill()
    for one, two in zip(evaluations[1], evaluations[2], strict=True):
        assert two.validation_loss == pytest.approx(one.validation_loss, rel=1e-12)
        for name, expected in one.hypergradient.items():
            error = (two.hypergradient[name] - expected).norm()
            assert error <= 1e-12 * expected.norm()


def test_a_worker_that_ends_is_the_loss_of_its_replica(node: str) -> None:
    group = started(node, 1, 2)
    state = prepared(group)
    evaluated(group, state)

    def end(worker: Any) -> None:
        os.write(1, b"the last words")
        os._exit(1)

    driver: Any = DriverHere()
    follower = group.workers[1].actor
    ended = follower.__ray_call__.remote(end)
    with pytest.raises(RayError):
        ray.get(ended, timeout=TIMEOUT_S)
    with pytest.raises(RayError) as caught:
        evaluated(group, state)
    assert failure_of(caught.value).code == REPLICA_LOST
    other = group.workers[1]
    (remains,) = request_remains(driver, [other], {})
    (lines,) = ray.get(remains.lines, timeout=TIMEOUT_S)
    assert (other.source, lines[-1]) == ("0.1", "the last words")
    group.kill()


@pytest.mark.full
def test_an_abandoned_meta_iteration_ends_on_all_workers_and_the_next_one_runs(node: str) -> None:
    group = started(node, 1, 2)
    state = prepared(group)
    (actor,) = group.actors
    ray.get(actor.abandon.remote(5), timeout=TIMEOUT_S)
    failure, _ = actor.meta_iteration.remote(state, 0, 5)
    found = ray.get(failure, timeout=TIMEOUT_S)
    assert found is not None
    assert "stopped on request" in found.message
    failure, _ = actor.meta_iteration.remote(state, 0, 6)
    assert ray.get(failure, timeout=TIMEOUT_S) is None
    group.kill()
