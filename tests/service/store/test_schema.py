"""Older data is brought up once; processes of another version change nothing, and say so."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.errors import SchemaDiffers
from drmad_service.operations.orphans import orphans
from drmad_service.store import Capacity, Store
from drmad_service.store.access.connection import connect
from drmad_service.store.layout import keys
from drmad_service.store.layout.schema import MIGRATIONS, SCHEMA, agree, version
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio


async def test_empty_redis_is_of_this_version(redis: Redis) -> None:
    await agree(redis)
    assert await version(redis) == (SCHEMA, True)


async def test_jobs_without_a_version_get_the_indices_of_their_tenants(
    redis: Redis, store: Store, spec: JobSpec
) -> None:
    job = (await store.create(spec, tenant="team"))[0]
    for key in [key async for key in redis.scan_iter("drmad:tenant:*")]:
        await redis.delete(key)
    assert (await store.jobs(tenant="team")).data == []
    await agree(redis)
    assert [found.id for found in (await store.jobs(tenant="team")).data] == [job.id]
    assert await version(redis) == (SCHEMA, True)
    assert await orphans(redis) == []


async def test_of_many_processes_at_once_one_migrates(redis: Redis, redis_url: str) -> None:
    await redis.set(keys.SCHEMA, SCHEMA)
    runs = []

    async def slow(redis: Redis) -> None:
        runs.append(await redis.get(keys.SCHEMA))
        await asyncio.sleep(0.05)

    async def process() -> None:
        async with connect(redis_url) as own:
            await agree(own, (*MIGRATIONS, slow, slow))

    await asyncio.gather(*(process() for _ in range(5)))
    assert runs == [f"{SCHEMA}-{SCHEMA + 1}".encode(), f"{SCHEMA + 1}-{SCHEMA + 2}".encode()]
    assert await version(redis) == (SCHEMA + 2, True)
    assert await redis.get(keys.SCHEMA_LOCK) is None


async def test_migration_whose_process_died_is_done_by_the_next(redis: Redis) -> None:
    await redis.set(keys.SCHEMA, f"{SCHEMA}-{SCHEMA + 1}")
    await redis.set(keys.SCHEMA_LOCK, "died", px=50)
    runs = []

    async def migration(redis: Redis) -> None:
        runs.append(SCHEMA)

    await agree(redis, (*MIGRATIONS, migration))
    assert runs == [SCHEMA]
    assert await version(redis) == (SCHEMA + 1, True)


async def test_process_that_lost_the_lock_does_not_set_the_version(redis: Redis) -> None:
    await redis.set(keys.SCHEMA, SCHEMA)

    async def frozen(redis: Redis) -> None:
        await redis.set(keys.SCHEMA_LOCK, "another")
        await redis.set(keys.SCHEMA, SCHEMA + 1)
        await redis.pexpire(keys.SCHEMA_LOCK, 50)

    await agree(redis, (*MIGRATIONS, frozen))
    assert await version(redis) == (SCHEMA + 1, True)


@pytest.mark.parametrize("found", [str(SCHEMA + 1), f"{SCHEMA}-{SCHEMA + 1}"])
async def test_older_scheduler_beside_newer_data_writes_nothing_and_says_so(
    redis: Redis, store: Store, spec: JobSpec, found: str
) -> None:
    lease = await started(store, spec)
    await redis.set(keys.SCHEMA, found)
    before = await redis.hgetall(keys.job(lease.job_id))
    with pytest.raises(SchemaDiffers, match=f"Redis is at schema {found}, this drmad .* schema"):
        await store.commit(lease, step(0))
    with pytest.raises(SchemaDiffers):
        await store.claim("scheduler", 10.0, Capacity(4.0, 0.0))
    with pytest.raises(SchemaDiffers):
        await store.create(spec)
    assert await redis.hgetall(keys.job(lease.job_id)) == before


async def test_older_process_refuses_to_start_on_newer_data(redis: Redis) -> None:
    await redis.set(keys.SCHEMA, SCHEMA + 1)
    with pytest.raises(SchemaDiffers):
        await agree(redis)


async def test_older_api_is_not_ready_and_answers_503(
    redis: Redis, api: httpx.AsyncClient, body: dict[str, object]
) -> None:
    assert (await api.get("/readyz")).status_code == 200
    await redis.set(keys.SCHEMA, SCHEMA + 1)
    refused = await api.get("/readyz")
    assert (refused.status_code, refused.json()["code"]) == (503, "schema_differs")
    refused = await api.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (503, "schema_differs")
