from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.scheduling.control_requests import ControlRequests
from drmad_service.scheduling.job_driver import JobDriver
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from tests.service.store.test_store import CAPACITY, started, step

pytestmark = pytest.mark.anyio


async def test_commit_waits_for_room_in_the_store(
    store: Store, redis: Redis, redis_url: str, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    settings = SchedulerSettings(redis_url)
    runner = JobDriver(store, lease, settings, CAPACITY, ControlRequests(store, settings))
    await redis.config_resetstat()
    await redis.config_set("maxmemory", "1")
    try:
        commit = asyncio.create_task(runner._reach(lambda: store.commit(lease, step(0))))
        while not await redis.info("errorstats"):
            await asyncio.sleep(0.01)
        assert not commit.done()
    finally:
        await redis.config_set("maxmemory", "0")
    await commit
    assert [r.iteration for r in (await store.history(lease.job_id)).data] == [0]
