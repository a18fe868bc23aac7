from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from drmad_client.records import Best, HyperparameterInfo, JobError, JobStatus, Progress
from drmad_client.specs import JobSpec
from drmad_service import keys
from drmad_service.errors import (
    ActionRefused,
    IdempotencyConflict,
    JobNotFound,
    LeaseLost,
    ResultNotFound,
)
from drmad_service.store import CHUNK_BYTES, Lease, ResumePoint, Step, Store
from drmad_service.transitions import Action

pytestmark = pytest.mark.anyio


def with_changes(spec: JobSpec, **changes: Any) -> JobSpec:
    return JobSpec.model_validate(spec.model_dump() | changes)


async def started(store: Store, spec: JobSpec) -> Lease:
    await store.create(spec)
    lease = await store.claim("scheduler", 10.0, cpus=4.0, gpus=0.0)
    assert lease is not None
    infos = [HyperparameterInfo(name="w", kind="l2", shape=[2], transform="exp")]
    await store.begin(lease, infos, ResumePoint(0, b"state 0", {"iteration": 0}))
    await store.act(lease, Action.RUN, "started")
    return lease


def step(iteration: int, loss: float = 1.0, is_best: bool = True, model: bytes = b"model") -> Step:
    record = {
        "iteration": iteration,
        "validation_loss": loss,
        "training_loss": 1.0,
        "hypergradient_norm": 1.0,
        "method": "shortcut",
        "is_best": is_best,
    }
    return Step(
        iteration=iteration,
        record=record,
        next_state=ResumePoint(
            iteration + 1, f"state {iteration + 1}".encode(), {"iteration": iteration + 1}
        ),
        hypergradient=f"hypergradient {iteration}".encode(),
        model=model,
        progress=Progress(iteration=iteration + 1, iterations=3),
        best=Best(iteration=iteration, validation_loss=loss) if is_best else None,
    )


async def test_created_job_is_queued_and_listed(store: Store, spec: JobSpec) -> None:
    job, created = await store.create(spec)
    assert created
    assert (job.status, job.reason, job.spec) == (JobStatus.QUEUED, "submitted", spec)
    assert [t.status for t in job.transitions] == [JobStatus.QUEUED]
    page = await store.jobs()
    assert [listed.id for listed in page.data] == [job.id]
    assert not page.has_more


async def test_same_idempotency_key_and_body_answer_the_same_job(
    store: Store, spec: JobSpec
) -> None:
    first, created = await store.create(spec, "key")
    again, created_again = await store.create(spec, "key")
    assert (created, created_again, again.id) == (True, False, first.id)
    with pytest.raises(IdempotencyConflict, match="another body"):
        await store.create(with_changes(spec, name="other"), "key")
    assert len((await store.jobs()).data) == 1


async def test_lists_page_by_page_filtered_by_status_and_tag(store: Store, spec: JobSpec) -> None:
    ids = [
        (await store.create(with_changes(spec, tags={"parity": str(n % 2)})))[0].id
        for n in range(7)
    ]
    seen: list[str] = []
    after = None
    while True:
        page = await store.jobs(after=after, limit=3)
        seen += [job.id for job in page.data]
        if not page.has_more:
            break
        after = page.next
    assert seen == sorted(ids, reverse=True)
    odd = await store.jobs(tag=("parity", "1"))
    assert [job.id for job in odd.data] == sorted(ids[1::2], reverse=True)
    await store.cancel(ids[0])
    cancelled = await store.jobs(status=JobStatus.CANCELLED)
    assert [job.id for job in cancelled.data] == [ids[0]]
    assert len((await store.jobs(status=JobStatus.QUEUED)).data) == 6


async def test_higher_priority_is_claimed_first_but_age_wins_in_the_end(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    old, _ = await store.create(spec)
    urgent, _ = await store.create(with_changes(spec, priority=5))
    aged = float(await redis.zscore(keys.QUEUE, old.id) or 0) - 6 * 60_000
    await redis.zadd(keys.QUEUE, {old.id: aged})
    claims = [await store.claim("scheduler", 10.0, 4.0, 0.0) for _ in range(3)]
    assert [c.job_id if c else None for c in claims] == [old.id, urgent.id, None]


async def test_claims_reserve_capacity_in_order(store: Store, spec: JobSpec) -> None:
    big = with_changes(spec, resources={"cpus": 2}, replicas={"count": 2})
    ids = [(await store.create(s))[0].id for s in (spec, big, spec)]
    first = await store.claim("a", 10.0, cpus=4.0, gpus=0.0)
    assert first is not None
    assert first.job_id == ids[0]
    # The big one fits once the first has ended; the small one behind it must not starve it.
    assert await store.claim("b", 10.0, cpus=4.0, gpus=0.0) is None
    await store.act(first, Action.FAIL, "test")
    second = await store.claim("b", 10.0, cpus=4.0, gpus=0.0)
    assert second is not None
    assert second.job_id == ids[1]


async def test_job_that_the_cluster_can_never_hold_does_not_block_the_others(
    store: Store, spec: JobSpec
) -> None:
    await store.create(with_changes(spec, resources={"gpus": 8}))
    small, _ = await store.create(spec)
    claimed = await store.claim("scheduler", 10.0, cpus=4.0, gpus=1.0)
    assert claimed is not None
    assert claimed.job_id == small.id


async def test_expired_lease_is_taken_over_and_its_holder_writes_nothing(
    store: Store, spec: JobSpec
) -> None:
    await store.create(spec)
    old = await store.claim("a", 0.0, 4.0, 0.0)
    new = await store.claim("b", 10.0, 4.0, 0.0)
    assert old is not None
    assert new is not None
    assert new.job_id == old.job_id
    with pytest.raises(LeaseLost):
        await store.act(old, Action.FAIL, "late")
    with pytest.raises(LeaseLost):
        await store.progress(old, Progress(iterations=3))
    with pytest.raises(LeaseLost):
        await store.status(old)
    with pytest.raises(LeaseLost):
        await store.commit(old, step(0))
    assert await store.renew([old, new], 10.0) == {old.job_id}
    assert (await store.get(new.job_id)).reason == "recovered"
    assert (await store.history(new.job_id)).data == []


async def test_commit_keeps_record_vectors_models_and_the_point_to_resume_from(
    store: Store, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    large = bytes(range(256)) * (CHUNK_BYTES // 128)
    await store.commit(lease, step(0, loss=2.0, model=large))
    await store.commit(lease, step(1, loss=3.0, is_best=False))
    job_id = lease.job_id
    job = await store.get(job_id)
    assert job.progress.iteration == 2
    assert job.best == Best(iteration=0, validation_loss=2.0)
    history = (await store.history(job_id)).data
    assert [record.iteration for record in history] == [0, 1]
    assert [record.is_best for record in history] == [True, False]
    assert await store.vectors(job_id, 0, "state") == b"state 0"
    assert await store.vectors(job_id, 1, "state") == b"state 1"
    assert await store.vectors(job_id, 1, "hypergradient") == b"hypergradient 1"
    assert await store.model(job_id, "best") == (0, large)
    assert await store.model(job_id, "last") == (1, b"model")
    assert await store.resume_point(job_id) == ResumePoint(2, b"state 2", {"iteration": 2})


async def test_replaced_model_leaves_no_chunk_behind(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    for iteration in range(3):
        await store.commit(lease, step(iteration, model=f"model {iteration}".encode()))
    # Four states, three hypergradients and the one model that is both best and last.
    assert await redis.hlen(keys.job(lease.job_id, "chunks")) == 4 + 3 + 1


async def test_commit_repeated_under_the_same_lease_counts_once(
    store: Store, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    await store.commit(lease, step(0))
    await store.commit(lease, step(0))
    assert [r.iteration for r in (await store.history(lease.job_id)).data] == [0]
    with pytest.raises(LeaseLost, match="gap"):
        await store.commit(lease, step(2))


async def test_history_pages_and_thins(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    for iteration in range(7):
        await store.commit(lease, step(iteration))
    page = await store.history(lease.job_id, after=1, limit=2)
    assert [r.iteration for r in page.data] == [2, 3]
    assert (page.has_more, page.next) == (True, "3")
    thinned = await store.history(lease.job_id, every=3)
    assert [r.iteration for r in thinned.data] == [0, 3, 6]
    with pytest.raises(ResultNotFound, match="7 of 3 are committed"):
        await store.iteration(lease.job_id, 12)


async def test_events_resume_without_gap_and_tell_when_they_were_trimmed(
    redis: Redis, spec: JobSpec
) -> None:
    store = Store(redis, events_kept=10)
    lease = await started(store, spec)
    events = await store.events(lease.job_id)
    assert [e.type for e in events] == ["status"] * 3
    assert [e.id for e in await store.events(lease.job_id, events[0].id)] == [
        e.id for e in events[1:]
    ]
    for number in range(300):  # Redis trims whole blocks of about a hundred
        await store.warn(lease, "noise", str(number))
    late = await store.events(lease.job_id, events[0].id)
    assert late[0].type == "reset"
    assert late[0].data["id"] == lease.job_id
    assert late[-1].data["message"] == "299"
    with pytest.raises(ValueError, match="looks like"):
        await store.events(lease.job_id, "yesterday")


async def test_cancel_of_a_queued_job_ends_it_and_of_a_driven_one_asks_its_runner(
    store: Store, spec: JobSpec
) -> None:
    queued, _ = await store.create(spec)
    assert (await store.cancel(queued.id)).status is JobStatus.CANCELLED
    assert await store.claim("scheduler", 10.0, 4.0, 0.0) is None
    with pytest.raises(ActionRefused, match="it is cancelled"):
        await store.cancel(queued.id)
    lease = await started(store, spec)
    assert (await store.cancel(lease.job_id)).status is JobStatus.CANCELLING
    assert await store.status(lease) is JobStatus.CANCELLING
    assert await store.act(lease, Action.STOP, "cancelled") is JobStatus.CANCELLED


async def test_failed_job_tells_its_root_cause(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    error = JobError(code="training_diverged", message="NaN", iteration=0, step=3)
    await store.act(lease, Action.FAIL, error.code, error.message, error)
    job = await store.get(lease.job_id)
    assert (job.status, job.error) == (JobStatus.FAILED, error)
    assert job.finished_at is not None


async def test_deleted_job_leaves_nothing(store: Store, redis: Redis, spec: JobSpec) -> None:
    lease = await started(store, spec)
    await store.commit(lease, step(0))
    with pytest.raises(ActionRefused):
        await store.delete(lease.job_id)
    await store.act(lease, Action.SUCCEED, "iterations")
    await store.delete(lease.job_id)
    assert await redis.keys("*") == []
    with pytest.raises(JobNotFound):
        await store.get(lease.job_id)
