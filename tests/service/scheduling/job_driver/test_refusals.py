"""A driven job while Redis refuses writes: it says what it waits for, and can be ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from redis.asyncio import Redis

from drmad_client.records.status import JobStatus
from drmad_service.store import Store
from drmad_workers.ray_actor.messages import Failure, ProgressReport
from tests.service.scheduling.conftest import Drive, Driven
from tests.service.scheduling.stand_in import StandInCluster, result
from tests.service.store.test_refusals import forbidden, full, read_only

pytestmark = pytest.mark.anyio

Refusing = Callable[[Redis], AbstractAsyncContextManager[None]]


async def says(driven: Driven, beginning: str) -> str:
    """The job's message, once it begins so."""
    async with asyncio.timeout(30):
        while True:
            message = (await driven.store.get(driven.lease.job_id)).message
            if message.startswith(beginning):
                return message
            await asyncio.sleep(0.01)


async def test_metric_that_no_store_can_name_fails_the_job_with_the_cause(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    step = result(0)
    step.record["metrics"] = {"acc\ud83d": 1.0}
    (await cluster.called("whole_meta_iteration")).returns(step)
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "user_code")
    assert "'acc\\ud83d'" in job.message


async def test_what_redis_cannot_read_fails_the_job_at_once(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    step = result(0)
    step.record["note"] = "\ud83d"
    (await cluster.called("whole_meta_iteration")).returns(step)
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "store_refused")
    assert "this is no outage" in job.message


async def test_failure_whose_message_no_utf8_has_is_told_with_escapes(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    cluster.answers["report"] = ProgressReport("forward", 1, 2, ["a line \udc80"])
    failure = Failure("user_code", "no file \udcff.txt", traceback="at \udcff")
    (await cluster.called("whole_meta_iteration")).returns(failure)
    job = await driven.released()
    assert (job.status, job.message) == (JobStatus.FAILED, "no file \\udcff.txt")
    lines = (await driven.store.logs(job.id)).data
    assert {line.text for line in lines} == {"a line \\udc80"}


async def test_cancel_ends_the_wait_for_a_full_redis_which_the_job_tells(
    drive: Drive, cluster: StandInCluster, store: Store, redis: Redis
) -> None:
    driven = await drive()
    call = await cluster.called("whole_meta_iteration")
    async with full(redis):
        call.returns(result(0))
        message = await says(driven, "waits: Redis has reached its memory limit")
        assert "delete jobs that have ended" in message
        await store.cancel(driven.lease.job_id)
        job = await driven.released()
    assert (job.status, job.progress.iteration) == (JobStatus.CANCELLED, 0)


async def test_timeout_ends_the_wait_for_a_full_redis(
    drive: Drive, cluster: StandInCluster, redis: Redis
) -> None:
    driven = await drive(timeout_s=1.0)
    call = await cluster.called("whole_meta_iteration")
    async with full(redis):
        call.returns(result(0))
        job = await driven.released()
        assert (job.status, job.reason) == (JobStatus.FAILED, "timeout")


async def test_wait_is_over_when_redis_has_room_and_the_message_too(
    drive: Drive, cluster: StandInCluster, redis: Redis
) -> None:
    driven = await drive()
    call = await cluster.called("whole_meta_iteration")
    async with full(redis):
        call.returns(result(0))
        await says(driven, "waits: ")
    (await cluster.called("whole_meta_iteration")).returns(result(1))
    await driven.committed(2)
    job = await driven.store.get(driven.lease.job_id)
    assert (job.status, job.message) == (JobStatus.RUNNING, "")
    assert cluster.created == 1


@pytest.mark.parametrize("refusing", [read_only, forbidden])
async def test_job_beyond_its_timeout_frees_its_replicas_while_redis_takes_no_writes(
    drive: Drive, cluster: StandInCluster, redis: Redis, refusing: Refusing
) -> None:
    driven = await drive(timeout_s=1.0)
    call = await cluster.called("whole_meta_iteration")
    async with refusing(redis):
        call.returns(result(0))
        async with asyncio.timeout(30):
            while not cluster.killed:
                await asyncio.sleep(0.01)
        assert not driven.task.done()
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "timeout")
