from __future__ import annotations

import asyncio

import pytest

from drmad_client.records.status import JobStatus
from drmad_service.store import Store
from drmad_workers.ray_actor.messages import ProgressReport
from tests.service.scheduling.conftest import Drive
from tests.service.scheduling.stand_in import StandInCluster, result

pytestmark = pytest.mark.anyio


async def test_cancel_ends_a_running_meta_iteration(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive()
    call = await cluster.called("whole_meta_iteration")
    await store.cancel(driven.lease.job_id)
    job = await driven.released()
    assert (job.status, job.progress.iteration) == (JobStatus.CANCELLED, 0)
    assert not call.outcome.done() or call.outcome.cancelled()


async def test_cancel_ends_the_wait_for_replicas(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    del cluster.answers["prepare"]
    driven = await drive()
    await cluster.called("prepare")
    await store.cancel(driven.lease.job_id)
    assert (await driven.released()).status is JobStatus.CANCELLED


async def test_pause_waits_for_the_running_meta_iteration(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive()
    call = await cluster.called("whole_meta_iteration")
    await store.pause(driven.lease.job_id)
    await cluster.called("report")  # the driver polls on
    assert not driven.task.done()
    call.returns(result(0))
    job = await driven.released()
    assert (job.status, job.progress.iteration) == (JobStatus.PAUSED, 1)


async def test_job_beyond_its_timeout_fails(drive: Drive, cluster: StandInCluster) -> None:
    driven = await drive(timeout_s=1.0)
    await cluster.called("whole_meta_iteration")
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "timeout")
    assert "ran longer than its timeout_s, 1 s; extend it" in job.message


async def test_progress_of_the_first_replica_is_stored_while_waiting(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive()
    cluster.answers["report"] = ProgressReport("forward", 7, 20, ["step 7"])
    await cluster.called("whole_meta_iteration")
    async with asyncio.timeout(30):
        async for _ in store.changes():
            progress = (await store.get(driven.lease.job_id)).progress
            if progress.step == 7:
                break
    assert (progress.phase, progress.steps) == ("forward", 20)


async def test_trailing_log_lines_are_kept_when_the_job_ends(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive({"poll_s": 60.0})  # no poll before the end
    call = await cluster.called("whole_meta_iteration")
    cluster.answers["report"] = ProgressReport("forward", 20, 20, ["the last line"])
    call.returns(result(0, finished="iterations"))
    job = await driven.released()
    lines = (await store.logs(job.id)).data
    assert "the last line" in [line.text for line in lines]


async def test_silent_replica_delays_the_end_by_the_bound_of_trailing_lines(
    drive: Drive, cluster: StandInCluster
) -> None:
    del cluster.answers["report"]
    driven = await drive({"last_lines_s": 0.01})
    call = await cluster.called("whole_meta_iteration")
    await cluster.called("report")  # never answered
    call.returns(result(0, finished="iterations"))
    assert (await driven.released()).status is JobStatus.SUCCEEDED
