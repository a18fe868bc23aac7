from __future__ import annotations

import asyncio

import pytest

from drmad_client.spec.job import JobSpec
from drmad_service.scheduling.control_requests import ControlRequests
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from tests.service.store.test_store import started

pytestmark = pytest.mark.anyio


async def test_only_drivers_of_jobs_with_a_control_request_are_woken(
    store: Store, redis_url: str, spec: JobSpec
) -> None:
    controls = ControlRequests(store, SchedulerSettings(redis_url, poll_s=0.01))
    paused, cancelled, calm, others = [(await started(store, spec)).job_id for _ in range(4)]
    heard = {job_id: controls.of(job_id) for job_id in (paused, cancelled, calm)}
    listening = asyncio.create_task(controls.listen())
    await store.pause(paused)
    await store.cancel(cancelled)
    await store.cancel(others)
    async with asyncio.timeout(60):
        await heard[paused].wait()
        await heard[cancelled].wait()
        heard[cancelled].clear()  # a request that is not applied yet is reported again
        await heard[cancelled].wait()
    listening.cancel()
    assert not heard[calm].is_set()
    assert await store.control_requests() == [*sorted([cancelled, others]), paused]


async def test_the_more_jobs_are_driven_the_less_often_each_is_polled(store: Store) -> None:
    controls = ControlRequests(store, SchedulerSettings("unix:///nowhere", poll_s=0.2))
    assert controls.pace_s == 0.2
    for number in range(1000):
        controls.of(f"job_{number}")
    assert controls.pace_s == 2.5
    for number in range(999):
        controls.forget(f"job_{number}")
    assert controls.pace_s == 0.2
