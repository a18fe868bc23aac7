from __future__ import annotations

import asyncio

import pytest

from drmad_client.spec.job import JobSpec
from drmad_service.scheduling.control_requests import ControlRequests
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from tests.service.store.test_store import started

pytestmark = pytest.mark.anyio


async def test_only_those_are_woken_of_whose_job_something_is_wished(
    store: Store, redis_url: str, spec: JobSpec
) -> None:
    wishes = ControlRequests(store, SchedulerSettings(redis_url, poll_s=0.01))
    paused, cancelled, calm, others = [(await started(store, spec)).job_id for _ in range(4)]
    heard = {job_id: wishes.of(job_id) for job_id in (paused, cancelled, calm)}
    listening = asyncio.create_task(wishes.listen())
    await store.pause(paused)
    await store.cancel(cancelled)
    await store.cancel(others)
    async with asyncio.timeout(60):
        await heard[paused].wait()
        await heard[cancelled].wait()
        heard[cancelled].clear()  # until it is fulfilled it is told again
        await heard[cancelled].wait()
    listening.cancel()
    assert not heard[calm].is_set()
    assert await store.wished() == [*sorted([cancelled, others]), paused]


async def test_the_more_jobs_are_driven_the_less_often_each_is_looked_at(store: Store) -> None:
    wishes = ControlRequests(store, SchedulerSettings("unix:///nowhere", poll_s=0.2))
    assert wishes.pace_s == 0.2
    for number in range(1000):
        wishes.of(f"job_{number}")
    assert wishes.pace_s == 2.5
    for number in range(999):
        wishes.forget(f"job_{number}")
    assert wishes.pace_s == 0.2
