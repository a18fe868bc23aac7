from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drmad_client.records.status import JobStatus
from drmad_service.store import Store
from drmad_workers.ray_actor.messages import Failure, PackedState, RollbackRequired
from tests.service.scheduling.conftest import Drive
from tests.service.scheduling.stand_in import StandInCluster, result

pytestmark = pytest.mark.anyio

WORSE = RollbackRequired("the validation loss 9 is above 2; the best is 1")
DIVERGED = Failure("training_diverged", "meta-iteration 1: the loss is nan", 1, 3)


def rolled_back(count: int) -> PackedState:
    return PackedState(f"rollback {count}".encode(), {"iteration": 1, "rollbacks": count})


@pytest.mark.parametrize("outcome", [WORSE, DIVERGED])
async def test_meta_iteration_begins_again_from_the_best_state(
    outcome: Any, drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive()
    (await cluster.called("whole_meta_iteration")).returns(replace(result(0, 1.0), goes_on=True))
    (await cluster.called("following_meta_iteration")).returns(outcome)
    call = await cluster.called("roll_back")
    infos, state, best, hypergradient, replicas = call.arguments
    assert [info["name"] for info in infos] == ["w"]
    assert (state.tensors, best.tensors, hypergradient) == (b"state 1", b"start", b"gradient 0")
    assert replicas == [0]
    call.returns(rolled_back(1))
    again = await cluster.called("whole_meta_iteration")
    assert again.arguments[0].tensors == b"rollback 1"
    again.returns(result(1, 0.5, "iterations"))
    job = await driven.released()
    assert (job.status, job.progress.iteration) == (JobStatus.SUCCEEDED, 2)
    assert await driven.events("rollback") == [
        {
            "iteration": 1,
            "rollback": 1,
            "message": f"{outcome.message}; rolled back to meta-iteration 1, half the step",
        }
    ]


async def test_chain_of_rollbacks_ends_at_max_rollbacks(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive(meta={"iterations": 3, "max_rollbacks": 2})
    (await cluster.called("whole_meta_iteration")).returns(result(0, 1.0))
    for count in (1, 2):
        (await cluster.called("whole_meta_iteration")).returns(WORSE)
        (await cluster.called("roll_back")).returns(rolled_back(count))
    (await cluster.called("whole_meta_iteration")).returns(WORSE)
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "no_descent")
    assert "2 rollbacks did not help: lower meta.learning_rate" in job.message
    assert [event["rollback"] for event in await driven.events("rollback")] == [1, 2]


async def test_first_meta_iteration_cannot_be_rolled_back(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    failure = Failure("training_diverged", "meta-iteration 0: the loss is nan", 0, 3)
    (await cluster.called("whole_meta_iteration")).returns(failure)
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "training_diverged")
    assert job.error is not None
    assert (job.error.iteration, job.error.step) == (0, 3)


async def test_failed_rollback_fails_the_job(drive: Drive, cluster: StandInCluster) -> None:
    driven = await drive()
    (await cluster.called("whole_meta_iteration")).returns(result(0, 1.0))
    (await cluster.called("whole_meta_iteration")).returns(WORSE)
    (await cluster.called("roll_back")).returns(Failure("worker_error", "KeyError: 'x'", 1))
    assert (await driven.released()).reason == "worker_error"


async def test_paused_job_stops_after_its_rollback_and_keeps_it(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive()
    (await cluster.called("whole_meta_iteration")).returns(result(0, 1.0))
    (await cluster.called("whole_meta_iteration")).returns(WORSE)
    call = await cluster.called("roll_back")
    await store.pause(driven.lease.job_id)
    call.returns(rolled_back(1))
    job = await driven.released()
    assert job.status is JobStatus.PAUSED
    point = await store.resume_point(job.id)
    assert point is not None
    assert (point.iteration, point.tensors) == (1, b"rollback 1")
