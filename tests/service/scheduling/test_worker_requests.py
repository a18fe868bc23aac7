"""A scheduler answers several tenants at once, and ends what nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from drmad_service.cancellation import cancel_and_wait
from drmad_service.scheduling.worker_requests import keep_answering
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_service.store.side_runs.worker_requests import WorkerRequest

pytestmark = pytest.mark.anyio

KIND = "preflights"


class Sleepers:
    """Code that sleeps until it is told to end or cancelled."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.cancelled: list[str] = []
        self.woken = asyncio.Event()

    async def answer(self, request: WorkerRequest) -> None:
        self.running.append(request.id)
        try:
            await self.woken.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request.id)
            raise
        finally:
            self.running.remove(request.id)


@asynccontextmanager
async def answering(store: Store, redis_url: str, sleepers: Sleepers) -> AsyncIterator[None]:
    settings = SchedulerSettings(
        redis_url, poll_s=0.01, worker_requests=3, tenant_worker_requests=2
    )
    task = asyncio.create_task(keep_answering(store, settings, KIND, sleepers.answer))
    yield
    await cancel_and_wait([task])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_code_that_sleeps_keeps_no_other_tenant_waiting(store: Store, redis_url: str) -> None:
    sleepers = Sleepers()
    for number in range(5):
        await store.ask(KIND, f"a{number}", "a", "{}")
    async with answering(store, redis_url, sleepers):
        await until(lambda: sleepers.running == ["a0", "a1"])
        await store.ask(KIND, "b0", "b", "{}")
        await until(lambda: sleepers.running == ["a0", "a1", "b0"])
        assert sleepers.cancelled == []


async def test_what_nobody_waits_for_ends(store: Store, redis_url: str) -> None:
    sleepers = Sleepers()
    await store.ask(KIND, "a0", "a", "{}")
    async with answering(store, redis_url, sleepers):
        await until(lambda: sleepers.running == ["a0"])
        await store.withdraw(KIND, "a0")
        await until(lambda: sleepers.cancelled == ["a0"])
    assert sleepers.running == []


async def test_a_scheduler_that_stops_ends_its_answers(store: Store, redis_url: str) -> None:
    sleepers = Sleepers()
    await store.ask(KIND, "a0", "a", "{}")
    async with answering(store, redis_url, sleepers):
        await until(lambda: sleepers.running == ["a0"])
    assert sleepers.cancelled == ["a0"]
