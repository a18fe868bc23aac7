"""A scheduler whose renewals Redis refuses for longer than a lease keeps its jobs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.cancellation import cancel_and_wait
from drmad_service.scheduling.scheduler import Scheduler
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_service.store.layout import keys
from tests.service.scheduling.stand_in import StandInCluster, result
from tests.service.store.test_refusals import forbidden

pytestmark = pytest.mark.anyio


async def test_a_scheduler_renews_late_rather_than_take_its_own_jobs_again(
    store: Store, redis: Redis, redis_url: str, spec: JobSpec, cluster: StandInCluster
) -> None:
    settings = SchedulerSettings(redis_url, lease_s=0.5, poll_s=0.01)
    client: Any = redis
    driver: Any = None  # the stand-in needs none
    scheduler = Scheduler(store, settings, driver, cluster)
    await store.create(
        JobSpec.model_validate(spec.model_dump() | {"hypergradient": {"method": "replay"}})
    )
    assert await scheduler._claim_one()
    (lease,) = scheduler._driven
    keeping = asyncio.create_task(scheduler._keep_leases())
    try:
        call = await cluster.called("whole_meta_iteration")
        async with forbidden(redis), asyncio.timeout(30):
            expiry = await client.zscore(keys.LEASES, lease.job_id)
            while (await client.time())[0] * 1000 < expiry + 1000 or not scheduler._unrenewed:
                await asyncio.sleep(0.01)
            assert not await scheduler._claim_one()  # refused
        assert not await scheduler._claim_one()
        call.returns(result(0, finished="iterations"))
        async with asyncio.timeout(30):
            while scheduler._driven:
                await asyncio.sleep(0.01)
    finally:
        await cancel_and_wait([keeping, *scheduler._driven.values()])
    job = await store.get(lease.job_id)
    assert [each.reason for each in job.transitions] == [
        "submitted",
        "claimed",
        "started",
        "iterations",
    ]
    assert cluster.created == 1
