"""Checkpoints of training runs: written with a commit, digests checked, copied by a fork."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.errors import ResultNotFound
from drmad_service.store import MetaIterationCommit, ResumePoint, Store, StoreSettings
from drmad_service.store.layout import keys
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio


@pytest.fixture
def spec(spec: JobSpec) -> JobSpec:
    """Six windows a training run, of which this job takes two."""
    meta = {"mode": "online", "window": 5, "checkpoint_every": 2, "iterations": 12}
    fields = spec.model_dump() | {"meta": meta, "training": {"steps": 30}}
    return JobSpec.model_validate(fields)


def state(number: int, replica: int = 0) -> ResumePoint:
    """The training state of a replica before window `number`."""
    return ResumePoint(number, f"training {number} of {replica}".encode(), {"step": 5 * number})


def window(number: int, replicas: int = 1) -> MetaIterationCommit:
    """Window `number`, which every second checkpoint follows."""
    training = [state(number + 1, each) for each in range(replicas)] if number % 2 else []
    return replace(step(number), training=training)


async def test_commit_keeps_the_training_state_of_every_replica(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    for number in range(5):
        await store.commit(lease, window(number, replicas=2))
    job_id = lease.job_id
    assert await store.checkpoints(job_id) == [2, 4]
    assert await store.checkpoint(job_id, 4) == [state(4), state(4, 1)]
    found = await store.points(job_id, range(2, 4))
    assert [each.tensors for each in found] == [b"state 2", b"state 3"]
    await store.cancel(job_id)
    with pytest.raises(ResultNotFound, match="before window 4"):
        await store.checkpoint(job_id, 3)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_lost_or_damaged_chunk_of_a_checkpoint_is_found_by_its_digest(
    store: Store, redis: Redis, spec: JobSpec, lost: bool
) -> None:
    lease = await started(store, spec)
    for number in range(2):
        await store.commit(lease, window(number))
    key = keys.job(lease.job_id, "checkpoint_chunks")
    (name,) = await redis.hkeys(key)
    await (redis.hdel(key, name) if lost else redis.hset(key, name, b"training 2 of 7"))
    with pytest.raises(ResultNotFound, match="no longer kept" if lost else "damaged"):
        await store.checkpoint(lease.job_id, 2)


async def test_the_last_two_checkpoints_are_kept_beyond_the_budget_with_what_they_need(
    redis: Redis, spec: JobSpec
) -> None:
    store = Store(redis, StoreSettings(checkpoint_bytes=0, vector_bytes=0))
    lease = await started(store, spec)
    for number in range(10):
        await store.commit(lease, window(number))
    job_id = lease.job_id
    assert await store.checkpoints(job_id) == [2, 8, 10]  # the first, and the last two
    assert await redis.hlen(keys.job(job_id, "checkpoint_chunks")) == 3
    assert len(await store.points(job_id, range(8, 10))) == 2
    with pytest.raises(ResultNotFound):
        await store.points(job_id, range(3, 8))


async def test_a_fork_has_its_own_copy_of_what_it_is_trained_from(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    for number in range(6):
        await store.commit(lease, window(number))
    fork = await store.fork(lease.job_id, 5, spec, spec)
    begun = await store.fork(lease.job_id, 1, spec, spec)
    await store.cancel(lease.job_id)
    await redis.delete(keys.job(lease.job_id, "checkpoint_chunks"))
    assert await store.checkpoints(fork.id) == [2, 4]
    assert await store.checkpoint(fork.id, 4) == [state(4)]
    assert [each.iteration for each in await store.points(fork.id, range(2, 5))] == [2, 3, 4]
    assert await store.checkpoints(begun.id) == []
    assert [each.tensors for each in await store.points(begun.id, [0])] == [b"state 0"]
    for part in ("vectors", "checkpoints", "checkpoint_chunks"):
        assert await redis.ttl(keys.job(fork.id, part)) == -1
    await store.cancel(fork.id)
    await store.delete(fork.id)
    assert await redis.keys(f"{keys.job(fork.id)}*") == []
