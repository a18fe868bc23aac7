"""Redis killed with -9 while it is written to: what was answered is still there."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from drmad_client.spec.job import JobSpec
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio

KILLS = 4


async def test_nothing_acknowledged_is_lost_and_nothing_is_corrupted(
    tmp_path: Path, spec: JobSpec
) -> None:
    server, chance = EmbeddedRedis(tmp_path), random.Random(0)
    created: set[str] = set()
    committed: dict[str, int] = {}
    try:
        for _ in range(KILLS):
            server.start()
            async with connect(server.url) as redis:
                await check(Store(redis), created, committed)
                await write_until_killed(redis, spec, created, committed, chance.random() * 0.5)
        server.start()
        async with connect(server.url) as redis:
            await check(Store(redis), created, committed)
    finally:
        server.stop()
    assert len(created) > KILLS
    assert sum(committed.values()) > KILLS


async def write_until_killed(
    redis: Redis, spec: JobSpec, created: set[str], committed: dict[str, int], after_s: float
) -> None:
    store = Store(redis)
    info = await redis.info("server")
    lease = await started(store, spec)
    asyncio.get_running_loop().call_later(after_s, os.kill, info["process_id"], signal.SIGKILL)

    async def submit() -> None:
        while True:
            created.add((await store.create(spec))[0].id)

    async def commit() -> None:
        committed[lease.job_id] = 0
        while True:
            await store.commit(lease, step(committed[lease.job_id]))
            committed[lease.job_id] += 1

    for outcome in await asyncio.gather(submit(), commit(), return_exceptions=True):
        assert isinstance(outcome, RedisError)


async def check(store: Store, created: set[str], committed: dict[str, int]) -> None:
    for job_id in created:
        assert (await store.get(job_id)).spec is not None
    for job_id, count in committed.items():
        job = await store.get(job_id)
        # The last commit may have been made although its answer was lost.
        assert job.progress.iteration in (count, count + 1)
        history = [r.iteration for r in (await store.history(job_id, limit=10_000)).data]
        assert history == list(range(job.progress.iteration))
        point = await store.resume_point(job_id)
        assert point is not None
        assert point.tensors == f"state {point.iteration}".encode()
        assert point.iteration == len(history)
        assert await store.vectors(job_id, history[-1], "hypergradient") if history else True
