"""What belongs to nothing is found, whichever way it was lost; what is in use is not."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.operations.orphans import orphans
from drmad_service.store import Capacity, Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio


async def test_jobs_in_every_state_and_what_is_on_its_way_are_no_orphans(
    redis: Redis, store: Store, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    await store.commit(lease, step(0))
    ended = await started(store, spec)
    await store.commit(ended, step(0))
    await store.act(ended, Action.SUCCEED, "iterations")
    await store.fork(ended.job_id, 0, spec, spec)
    await store.create(spec, idempotency_key="one")
    await store.pause((await store.create(spec))[0].id)
    await store.put_code("ab" * 32, b"code")
    await redis.hset(keys.job("job_to_be", "chunks"), "a", "b")
    await redis.expire(keys.job("job_to_be", "chunks"), 60)
    assert await orphans(redis) == []
    await store.delete(ended.job_id)
    assert await orphans(redis) == []


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("SET", "drmad:job:job_gone:state", "{}"), "drmad:job:job_gone:state"),
        (("HSET", "drmad:job:job_gone", "a", "b"), "drmad:job:job_gone"),
        (("SET", "drmad:unheard:of", "1"), "drmad:unheard:of"),
        (("ZADD", keys.QUEUE, "1", "job_gone"), f"{keys.QUEUE} job_gone"),
        (("ZADD", keys.JOBS, "0", "job_gone"), f"{keys.JOBS} job_gone"),
        (("ZADD", keys.jobs_with("failed"), "0", "job_gone"), "drmad:jobs:failed job_gone"),
        (("HSET", keys.RESERVATIONS, "job_gone", "1 0 a"), f"{keys.RESERVATIONS} job_gone"),
        (("ZADD", "drmad:tenant:a:jobs", "0", "job_gone"), "drmad:tenant:a:jobs job_gone"),
        (("HSET", keys.code("ff"), "0", "x"), keys.code("ff")),
        (("HSET", keys.key("ff"), "digest", "x"), keys.key("ff")),
        (("SET", keys.session("ff"), "x"), keys.session("ff")),
        (("SET", keys.idempotency("a", "b"), "x"), keys.idempotency("a", "b")),
    ],
)
async def test_orphans_are_reported(redis: Redis, command: tuple[str], key: str) -> None:
    await redis.execute_command(*command)  # type: ignore[no-untyped-call]
    assert [orphan.key for orphan in await orphans(redis)] == [key]


async def test_index_that_contradicts_the_state_is_reported(
    redis: Redis, store: Store, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    await redis.zadd(keys.QUEUE, {lease.job_id: 1})
    (orphan,) = await orphans(redis)
    assert (orphan.key, orphan.reason) == (f"{keys.QUEUE} {lease.job_id}", "the job is running")


async def test_schedulers_that_were_killed_are_forgotten_in_time(
    redis: Redis, store: Store
) -> None:
    capacity = Capacity(4.0, 0.0)
    await store.claim("killed", 10.0, capacity)
    await store.report_nodes("killed", "{}")
    said = json.loads(await redis.hget(keys.CLUSTER, "killed") or b"")
    await redis.hset(keys.CLUSTER, "killed", json.dumps(said | {"at": said["at"] - 3_700_000}))
    await store.claim("lately", 10.0, capacity)
    await store.claim("new", 10.0, capacity)
    assert set(await redis.hkeys(keys.CLUSTER)) == {b"lately", b"new"}
    assert await redis.hkeys(keys.NODES) == []
