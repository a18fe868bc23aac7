from __future__ import annotations

import pytest

from drmad_client.records.status import JobStatus
from drmad_service.ray_driver.connection import CallFailed
from drmad_service.store import Store
from drmad_workers.ray_actor.messages import Failure
from tests.service.scheduling.conftest import Drive
from tests.service.scheduling.stand_in import StandInCluster, result

pytestmark = pytest.mark.anyio

LOST = Failure("replica_lost", "The actor is dead because its node has died.")

NO_MEMORY = Failure("out_of_memory", "CUDA out of memory; a smaller batch needs less", 1)


async def test_lost_replica_is_replaced_and_the_meta_iteration_repeated_from_the_last_commit(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    (await cluster.called("whole_meta_iteration")).returns(result(0))
    (await cluster.called("whole_meta_iteration")).raises(CallFailed(LOST))
    again = await cluster.called("whole_meta_iteration")
    assert again.arguments[0].tensors == b"state 1"
    again.returns(result(1, finished="iterations"))
    job = await driven.released()
    assert (job.status, job.progress.iteration) == (JobStatus.SUCCEEDED, 2)
    assert cluster.created == 2
    (warning,) = await driven.events("warning")
    assert warning["code"] == "replica_lost"


async def test_losses_in_a_row_are_bounded(drive: Drive, cluster: StandInCluster) -> None:
    driven = await drive(retry={"replica_failures": 2})
    for _ in range(3):
        (await cluster.called("whole_meta_iteration")).raises(CallFailed(LOST))
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "replica_lost")
    assert "lost 3 times in a row, retry.replica_failures allows 2: " in job.message
    assert cluster.created == 3


async def test_commit_between_losses_ends_the_row(drive: Drive, cluster: StandInCluster) -> None:
    driven = await drive(retry={"replica_failures": 1})
    for iteration in range(2):
        (await cluster.called("whole_meta_iteration")).raises(CallFailed(LOST))
        (await cluster.called("whole_meta_iteration")).returns(result(iteration))
    (await cluster.called("whole_meta_iteration")).returns(result(2, finished="iterations"))
    assert (await driven.released()).status is JobStatus.SUCCEEDED


async def test_lack_of_memory_counts_as_a_loss(drive: Drive, cluster: StandInCluster) -> None:
    driven = await drive(retry={"replica_failures": 1})
    for _ in range(2):
        (await cluster.called("whole_meta_iteration")).returns(NO_MEMORY)
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "out_of_memory")
    assert cluster.created == 2


async def test_an_artifact_store_that_fails_is_told_as_what_it_is(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive(retry={"replica_failures": 1})
    refused = Failure("artifacts_fail", "s3://models refuses to write: 403", 0)
    for _ in range(2):
        (await cluster.called("whole_meta_iteration")).returns(refused)
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "artifacts_fail")
    assert job.message.startswith("the artifact store failed 2 times in a row, ")
    (warning,) = await driven.events("warning")
    assert warning["code"] == "artifacts_fail"
    assert "a replica was lost" not in warning["message"] + job.message


async def test_error_in_the_code_of_a_replica_fails_the_job_at_once(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    error = Failure("worker_error", "KeyError: 'x'")
    (await cluster.called("whole_meta_iteration")).raises(CallFailed(error))
    job = await driven.released()
    assert (job.status, job.message) == (JobStatus.FAILED, "KeyError: 'x'")
    assert cluster.created == 1


async def test_cancel_is_applied_while_replicas_are_replaced(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive({"retry_s": 60.0})
    (await cluster.called("whole_meta_iteration")).raises(CallFailed(LOST))
    async for _ in store.changes():
        if await driven.events("warning"):
            break
    await store.cancel(driven.lease.job_id)
    assert (await driven.released()).status is JobStatus.CANCELLED
    assert cluster.created == 1
