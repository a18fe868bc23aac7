"""Driven jobs over a real store, on a cluster whose replicas the test resolves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from redis.asyncio import Redis

from drmad_client.records.job import JobRecord
from drmad_client.spec.job import JobSpec
from drmad_service.cancellation import cancel_and_wait
from drmad_service.scheduling.control_requests import ControlRequests
from drmad_service.scheduling.job_driver.life_cycle import JobDriver
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, Lease, Store
from drmad_service.store.layout import keys
from tests.service.scheduling.stand_in import StandInCluster

CAPACITY = Capacity(1.0, 0.0)


@dataclass
class Driven:
    """A job, and the task that drives it."""

    store: Store
    lease: Lease
    task: asyncio.Task[None]

    async def released(self) -> JobRecord:
        """The job, once its driver has released it."""
        # A timeout's single cancellation may be lost; the fixture cancels until the task ends.
        async with asyncio.timeout(30):
            await asyncio.shield(self.task)
        return await self.store.get(self.lease.job_id)

    async def committed(self, iterations: int) -> None:
        """Wait until this many meta-iterations are committed."""
        async with asyncio.timeout(30):
            while (await self.store.get(self.lease.job_id)).progress.iteration < iterations:
                await asyncio.sleep(0.01)

    async def events(self, kind: str) -> list[dict[str, Any]]:
        found = await self.store.events(self.lease.job_id)
        return [event.data for event in found if event.type == kind]


Drive = Callable[..., Awaitable[Driven]]


@pytest.fixture
def cluster() -> StandInCluster:
    return StandInCluster()


@pytest.fixture
async def drive(
    store: Store, redis: Redis, redis_url: str, spec: JobSpec, cluster: StandInCluster
) -> AsyncIterator[Drive]:
    """Submits, claims and drives a job; keywords change its spec (replay is never compared)."""
    tasks: list[asyncio.Task[None]] = []

    async def driven(settings: Mapping[str, Any] = MappingProxyType({}), **changes: Any) -> Driven:
        fields = spec.model_dump() | {"hypergradient": {"method": "replay"}} | changes
        await store.create(JobSpec.model_validate(fields))
        lease = await store.claim("scheduler", 60.0, CAPACITY)
        assert lease is not None
        fast = {"poll_s": 0.01, "retry_s": 0.0, "last_lines_s": 0.1} | dict(settings)
        used = SchedulerSettings(redis_url, **fast)
        controls = ControlRequests(store, used)
        driver = JobDriver(store, lease, used, CAPACITY, controls, cluster)
        listening = asyncio.create_task(controls.listen())
        task = asyncio.create_task(driver.run())
        tasks.extend([listening, task])
        return Driven(store, lease, task)

    yield driven
    await cancel_and_wait(tasks)
    held: Any = await redis.zrange(keys.LEASES, 0, -1)
    for index in (keys.RESERVATIONS, keys.PLACES, keys.RESERVED_AT):
        reserved: Any = await redis.hkeys(index)
        assert set(reserved) == set(held), "no reservation outlives its job"
