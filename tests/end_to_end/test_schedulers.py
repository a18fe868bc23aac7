"""Two schedulers on one Redis, each with a Ray of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from tests.end_to_end.running import WAIT_S
from tests.end_to_end.test_lifecycle import spec

pytestmark = pytest.mark.anyio

LEASE_S = 1.5
ITERATIONS = 25


@asynccontextmanager
async def scheduler(url: str, log: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "drmad_client", "schedule", "--cpus", "1"]
    environment = os.environ | {"DRMAD_REDIS_URL": url, "DRMAD_LEASE_S": str(LEASE_S)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        await asyncio.to_thread(process.wait, 30)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await holds():
            await asyncio.sleep(0.02)


def figures(history: list[MetaIteration]) -> list[tuple[int, float]]:
    return [(record.iteration, record.validation_loss) for record in history]


async def test_scheduler_stopped_past_its_lease_writes_nothing_when_it_wakes(
    tmp_path: Path,
) -> None:
    redis = EmbeddedRedis(tmp_path)
    redis.start()
    try:
        async with connect(redis.url) as connection:
            await stopped_and_continued(Store(connection), redis.url, tmp_path)
    finally:
        redis.stop()


async def stopped_and_continued(store: Store, url: str, folder: Path) -> None:
    job_spec = JobSpec.model_validate(spec(meta={"iterations": ITERATIONS}))
    job_id = (await store.create(job_spec))[0].id

    async def has_committed(count: int = 2) -> bool:
        return (await store.get(job_id)).progress.iteration >= count

    async def has_committed_more() -> bool:
        return await has_committed(paused_at + 2)

    async def is_paused() -> bool:
        return (await store.get(job_id)).status is JobStatus.PAUSED

    async def has_two_schedulers() -> bool:
        return (await store.cluster()).schedulers == 2

    async def was_taken_over() -> bool:
        return "recovered" in [t.reason for t in (await store.get(job_id)).transitions]

    async def has_ended(which: str = job_id) -> bool:
        return (await store.get(which)).status.is_terminal

    async with scheduler(url, folder / "first.log") as first:
        await until(has_committed)
        await store.pause(job_id)  # so that it has not ended before the second one is there
        await until(is_paused)
        paused_at = (await store.get(job_id)).progress.iteration
        async with scheduler(url, folder / "second.log") as second:
            await until(has_two_schedulers)
            await store.resume(job_id)
            await until(has_committed_more)
            owner = second if "claimed a job" in (folder / "second.log").read_text() else first
            owner.send_signal(signal.SIGSTOP)
            await until(was_taken_over)
            owner.send_signal(signal.SIGCONT)
            await until(has_ended)
            undisturbed = (await store.create(job_spec))[0].id
            await until(lambda: has_ended(undisturbed))
    ended = await store.get(job_id)
    log = folder / ("second.log" if owner is second else "first.log")
    assert "stopped driving" in log.read_text() or "the lease was lost" in log.read_text()
    assert ended.status is JobStatus.SUCCEEDED
    history = (await store.history(job_id)).data
    assert [record.iteration for record in history] == list(range(ITERATIONS))
    assert figures(history) == figures((await store.history(undisturbed)).data)
