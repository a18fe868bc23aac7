from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import Best, JobError, Progress
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service.errors import (
    ActionRefused,
    IdempotencyConflict,
    JobNotFound,
    LeaseLost,
    ResultNotFound,
    StoreFull,
)
from drmad_service.store import (
    Capacity,
    Lease,
    MetaIterationCommit,
    ResumePoint,
    Store,
    StoreSettings,
)
from drmad_service.store.access.large_values import CHUNK_BYTES
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from tests.service.stored_models import model

pytestmark = pytest.mark.anyio

CAPACITY = Capacity(cpus=4.0, gpus=0.0)


def with_changes(spec: JobSpec, **changes: Any) -> JobSpec:
    return JobSpec.model_validate(spec.model_dump() | changes)


async def started(store: Store, spec: JobSpec) -> Lease:
    await store.create(spec)
    lease = await store.claim("scheduler", 10.0, Capacity(4.0, 0.0))
    assert lease is not None
    infos = [HyperparameterInfo(name="w", kind="l2", shape=[2], transform="exp")]
    await store.begin(lease, infos, ResumePoint(0, b"state 0", {"iteration": 0}))
    await store.act(lease, Action.RUN, "started")
    return lease


def step(
    iteration: int, loss: float = 1.0, is_best: bool = True, model: bytes = b"model"
) -> MetaIterationCommit:
    record = {
        "iteration": iteration,
        "validation_loss": loss,
        "training_loss": 1.0,
        "hypergradient_norm": 1.0,
        "method": "shortcut",
        "is_best": is_best,
    }
    return MetaIterationCommit(
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
    odd = await store.jobs(tags=["parity:1"])
    assert [job.id for job in odd.data] == sorted(ids[1::2], reverse=True)
    await store.cancel(ids[0])
    cancelled = await store.jobs(statuses=[JobStatus.CANCELLED])
    assert [job.id for job in cancelled.data] == [ids[0]]
    assert len((await store.jobs(statuses=[JobStatus.QUEUED])).data) == 6


async def test_higher_priority_is_claimed_first_but_age_wins_in_the_end(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    old, _ = await store.create(spec)
    urgent, _ = await store.create(with_changes(spec, priority=5))
    aged = float(await redis.zscore(keys.QUEUE, old.id) or 0) - 6 * 60_000
    await redis.zadd(keys.QUEUE, {old.id: aged})
    claims = [await store.claim("scheduler", 10.0, CAPACITY) for _ in range(3)]
    assert [c.job_id if c else None for c in claims] == [old.id, urgent.id, None]


async def test_claims_reserve_capacity_in_order(store: Store, spec: JobSpec) -> None:
    big = with_changes(spec, resources={"cpus": 2}, replicas={"count": 2})
    ids = [(await store.create(s))[0].id for s in (spec, big, spec)]
    first = await store.claim("a", 10.0, Capacity(4.0, 0.0))
    assert first is not None
    assert first.job_id == ids[0]
    # The big one fits once the first has ended; the small one behind it must not starve it.
    assert await store.claim("b", 10.0, Capacity(4.0, 0.0)) is None
    await store.act(first, Action.FAIL, "test")
    second = await store.claim("b", 10.0, Capacity(4.0, 0.0))
    assert second is not None
    assert second.job_id == ids[1]


async def test_job_that_the_cluster_can_never_hold_does_not_block_the_others(
    store: Store, spec: JobSpec
) -> None:
    await store.create(with_changes(spec, resources={"gpus": 1}, replicas={"count": 8}))
    small, _ = await store.create(spec)
    claimed = await store.claim("scheduler", 10.0, Capacity(4.0, 1.0))
    assert claimed is not None
    assert claimed.job_id == small.id


async def test_expired_lease_is_taken_over_and_its_holder_writes_nothing(
    store: Store, spec: JobSpec
) -> None:
    await store.create(spec)
    old = await store.claim("a", 0.0, CAPACITY)
    new = await store.claim("b", 10.0, CAPACITY)
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


async def test_a_clock_set_back_keeps_no_job_from_the_next_scheduler(
    redis: Redis, store: Store, spec: JobSpec
) -> None:
    """A lease that ends an hour from now was given before the clock was set back by an hour."""
    await store.create(spec)
    lost = await store.claim("a", 1.0, CAPACITY)
    assert lost is not None
    await redis.zincrby(keys.LEASES, 3_600_000, lost.job_id)
    assert await store.claim("b", 0.02, CAPACITY) is None
    async with asyncio.timeout(30.0):
        while (taken := await store.claim("b", 1.0, CAPACITY)) is None:
            await asyncio.sleep(0.01)
    assert taken.job_id == lost.job_id
    assert await store.renew([taken], 10.0) == set()


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
    assert await model(store, job_id, "best") == (0, large)
    assert await model(store, job_id, "last") == (1, b"model")
    assert await store.resume_point(job_id) == ResumePoint(2, b"state 2", {"iteration": 2})


async def test_replaced_model_leaves_no_chunk_behind(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    for iteration in range(3):
        await store.commit(lease, step(iteration, model=f"model {iteration}".encode()))
    # Four states and three hypergradients; the one model is both best and last.
    assert await redis.hlen(keys.job(lease.job_id, "chunks")) == 4 + 3
    assert await redis.hlen(keys.job(lease.job_id, "model_chunks")) == 1


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
    subsampled = await store.history(lease.job_id, every=3)
    assert [r.iteration for r in subsampled.data] == [0, 3, 6]
    with pytest.raises(ResultNotFound, match="7 of 3 are committed"):
        await store.iteration(lease.job_id, 12)


async def test_probes_of_auto_are_found_in_the_history(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    for iteration in range(4):
        done = step(iteration)
        choice = {"method": {"method": "replay"}} if iteration in (0, 2) else None
        await store.commit(lease, replace(done, record=dict(done.record) | {"choice": choice}))
    found = await store.fidelity(lease.job_id)
    assert found["report"] is None
    assert [choice["iteration"] for choice in found["choices"]] == [0, 2]
    assert found["choices"][0]["method"] == {"method": "replay"}


async def test_events_resume_without_gap_and_report_when_they_were_trimmed(
    redis: Redis, spec: JobSpec
) -> None:
    store = Store(redis, StoreSettings(events_kept=10))
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
    with pytest.raises(ValueError, match="has the form"):
        await store.events(lease.job_id, "yesterday")


async def test_cancel_of_a_queued_job_ends_it_and_of_a_driven_one_asks_its_runner(
    store: Store, spec: JobSpec
) -> None:
    queued, _ = await store.create(spec)
    assert (await store.cancel(queued.id)).status is JobStatus.CANCELLED
    assert await store.claim("scheduler", 10.0, CAPACITY) is None
    with pytest.raises(ActionRefused, match="it is cancelled"):
        await store.cancel(queued.id)
    lease = await started(store, spec)
    assert (await store.cancel(lease.job_id)).status is JobStatus.CANCELLING
    assert await store.status(lease) is JobStatus.CANCELLING
    assert await store.act(lease, Action.YIELD, "cancelled") is JobStatus.CANCELLED


async def test_failed_job_names_its_root_cause(store: Store, spec: JobSpec) -> None:
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
    left = {keys.CLUSTER.encode(), keys.COUNTERS.encode(), keys.AUDIT.encode()}
    assert set(await redis.keys("*")) == left
    with pytest.raises(JobNotFound):
        await store.get(lease.job_id)


async def test_tenant_with_running_jobs_lets_the_others_go_first(
    store: Store, spec: JobSpec
) -> None:
    busy = [(await store.create(spec, tenant="busy"))[0].id for _ in range(3)]
    other = (await store.create(spec, tenant="other"))[0].id
    claims = [await store.claim("scheduler", 10.0, CAPACITY) for _ in range(4)]
    assert [c.job_id for c in claims if c] == [busy[0], other, busy[1], busy[2]]


async def test_tenant_is_held_to_its_limits(store: Store, spec: JobSpec) -> None:
    first, second = [(await store.create(spec, tenant="a"))[0].id for _ in range(2)]
    other = (await store.create(spec, tenant="b"))[0].id
    capacity = Capacity(cpus=8.0, gpus=0.0, tenant_jobs=1)
    claims = [await store.claim("scheduler", 10.0, capacity) for _ in range(3)]
    assert [c.job_id if c else None for c in claims] == [first, other, None]
    assert claims[0] is not None
    await store.act(claims[0], Action.FAIL, "test")
    freed = await store.claim("scheduler", 10.0, capacity)
    assert freed is not None
    assert freed.job_id == second


async def test_waiting_job_says_what_it_needs_and_what_there_is(
    store: Store, spec: JobSpec
) -> None:
    job, _ = await store.create(
        with_changes(spec, resources={"cpus": 0.5, "gpus": 1}, replicas={"count": 2})
    )
    assert job.message.startswith("no scheduler is running")
    await store.claim("scheduler", 10.0, Capacity(cpus=4.0, gpus=1.0))
    job = await store.get(job.id)
    assert job.message == "needs 2 GPUs, the cluster has 1"
    assert job.waiting is not None
    assert (job.waiting.gpus, job.waiting.cluster_gpus) == (2.0, 1.0)
    four = with_changes(spec, resources={"cpus": 4})
    holder, _ = await store.create(four)
    assert await store.claim("scheduler", 10.0, CAPACITY) is not None
    behind, _ = await store.create(four)
    held = f"held by {holder.id[-6:]} (4 CPUs)"
    assert behind.message == f"needs 4 CPUs, 0 of 4 are free; {held}"
    other, _ = await store.create(four, tenant="other")
    assert other.message == "needs 4 CPUs, 0 of 4 are free; held by 1 of other tenants"
    third, _ = await store.create(four, tenant="third")
    assert third.message == (
        "needs 4 CPUs, 0 of 4 are free; held by 1 of other tenants; "
        "queued behind 1 job, one of another tenant, which was submitted earlier"
    )


async def test_queued_job_that_would_fit_says_which_job_is_ahead_and_why(
    store: Store, spec: JobSpec
) -> None:
    assert await store.claim("scheduler", 10.0, CAPACITY) is None  # announces the capacity
    ids = [(await store.create(spec))[0].id for _ in range(3)]
    urgent, _ = await store.create(with_changes(spec, priority=5))
    assert urgent.message == "first in the queue"
    jobs = [await store.get(job_id) for job_id in ids]
    first, second, _ = (job_id[-6:] for job_id in ids)
    assert [job.message for job in jobs] == [
        f"queued behind 1 job, {urgent.id[-6:]}, which has the higher priority (5, this job 0)",
        f"queued behind 2 jobs: the last of them is {first}, which was submitted earlier",
        f"queued behind 3 jobs: the last of them is {second}, which was submitted earlier",
    ]
    waiting = [job.waiting for job in jobs if job.waiting is not None]
    assert [each.ahead for each in waiting] == [1, 2, 3]
    assert [each.behind for each in waiting] == [urgent.id, *ids[:2]]
    listed = {job.id: job.message for job in (await store.jobs()).data}
    assert [listed[job.id] for job in jobs] == [job.message for job in jobs]
    assert await store.queue(10) == [urgent.id, *ids]


async def test_jobs_that_cannot_run_are_in_nobodys_way(store: Store, spec: JobSpec) -> None:
    capacity = Capacity(cpus=8.0, gpus=0.0, tenant_jobs=1)
    await store.create(spec, tenant="vision")
    assert await store.claim("scheduler", 10.0, capacity) is not None
    await store.create(with_changes(spec, resources={"cpus": 64}), tenant="language")
    held_back, _ = await store.create(spec, tenant="vision")
    assert held_back.message == "tenant vision runs as many jobs as it may at once (1)"
    assert held_back.waiting is not None
    assert (held_back.waiting.ahead, held_back.waiting.behind) == (0, None)
    free, _ = await store.create(spec, tenant="language")
    assert free.message == "first in the queue"
    assert free.waiting is not None
    assert (free.waiting.ahead, free.waiting.behind) == (0, None)


async def test_a_job_of_a_tenant_that_runs_fewer_jobs_comes_first(
    store: Store, spec: JobSpec
) -> None:
    await store.create(spec, tenant="vision")
    assert await store.claim("scheduler", 10.0, CAPACITY) is not None
    later, _ = await store.create(spec, tenant="vision")
    await store.create(spec, tenant="language")
    assert (await store.get(later.id)).message == (
        "queued behind 1 job, one of another tenant, which comes first because its tenant runs "
        "fewer jobs"
    )


async def test_job_of_higher_priority_outranks_a_running_one_that_is_in_its_way(
    store: Store, spec: JobSpec
) -> None:
    four = with_changes(spec, resources={"cpus": 4})
    lease = await started(store, four)
    await store.create(four)
    assert not await store.outranked(lease, CAPACITY)
    await store.create(with_changes(four, priority=10))
    assert await store.outranked(lease, CAPACITY)
    assert not await store.outranked(lease, Capacity(cpus=8.0, gpus=0.0))  # there is room beside
    await store.act(lease, Action.YIELD, "preempted")
    assert (await store.get(lease.job_id)).status is JobStatus.QUEUED


async def test_paused_job_frees_the_cluster_and_goes_on_when_resumed(
    store: Store, spec: JobSpec
) -> None:
    lease = await started(store, with_changes(spec, resources={"cpus": 4}))
    assert (await store.pause(lease.job_id)).status is JobStatus.PAUSING
    await store.commit(lease, step(0))  # the running meta-iteration is finished
    assert await store.act(lease, Action.YIELD, "paused") is JobStatus.PAUSED
    other = await started(store, spec)
    await store.act(other, Action.SUCCEED, "iterations")
    assert (await store.resume(lease.job_id)).status is JobStatus.QUEUED
    again = await store.claim("scheduler", 10.0, CAPACITY)
    assert again is not None
    assert again.job_id == lease.job_id
    point = await store.resume_point(lease.job_id)
    assert point is not None
    assert point.iteration == 1
    with pytest.raises(ActionRefused):
        await store.resume(lease.job_id)


async def test_extended_job_is_queued_again_without_its_end(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    await store.commit(lease, step(0))
    with pytest.raises(ActionRefused):
        await store.extend(await store.get(lease.job_id), spec)
    error = JobError(code="timeout", message="too long")
    await store.act(lease, Action.FAIL, "timeout", "too long", error)
    longer = with_changes(spec, meta={"iterations": 9})
    ended = await store.get(lease.job_id)
    job = await store.extend(ended, longer)
    assert (job.status, job.error, job.finished_at) == (JobStatus.QUEUED, None, None)
    assert (job.progress.iteration, job.progress.iterations) == (1, 9)
    with pytest.raises(ActionRefused):
        await store.extend(ended, longer)
    assert await store.delete_ended_before(-1e6) == 0
    assert (await store.claim("scheduler", 10.0, CAPACITY)) is not None


async def test_fork_goes_on_from_a_kept_meta_iteration(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    for iteration in range(3):
        await store.commit(lease, step(iteration))
    fork = await store.fork(lease.job_id, 2, spec, spec)
    assert fork.forked_from == f"{lease.job_id}@2"
    point = await store.resume_point(fork.id)
    assert point is not None
    assert (point.iteration, point.tensors) == (2, b"state 2")
    await store.act(lease, Action.SUCCEED, "iterations")
    await store.delete(lease.job_id)  # the fork has its own copy
    driving = await store.claim("scheduler", 10.0, CAPACITY)
    assert driving is not None
    await store.commit(driving, step(2))
    assert [r.iteration for r in (await store.history(fork.id)).data] == [2]
    with pytest.raises(JobNotFound):
        await store.fork(lease.job_id, 2, spec, spec)
    with pytest.raises(ResultNotFound, match="has_vectors"):
        await store.fork(fork.id, 7, spec, spec)


async def test_vectors_are_subsampled_from_the_middle_to_the_budget(
    redis: Redis, spec: JobSpec
) -> None:
    store = Store(redis, StoreSettings(vector_bytes=10 * 2000))
    lease = await started(store, spec)
    for iteration in range(60):
        done = step(iteration, loss=abs(iteration - 20.0), is_best=iteration <= 20)
        wide = {
            "next_state": ResumePoint(iteration + 1, iteration.to_bytes(2, "big") * 500, {}),
            "hypergradient": iteration.to_bytes(2, "little") * 500 + b"g",
        }
        await store.commit(lease, MetaIterationCommit(**vars(done) | wide))
    history = (await store.history(lease.job_id, limit=100)).data
    kept = [record.iteration for record in history if record.has_vectors]
    assert [record.iteration for record in history] == list(range(60))
    assert {0, 20, 58, 59} <= set(kept)
    assert 5 <= len(kept) <= 10
    for iteration in kept:
        assert await store.vectors(lease.job_id, iteration, "hypergradient")
    held = await redis.hgetall(keys.job(lease.job_id, "chunks"))
    assert sum(map(len, held.values())) < 2 * 10 * 2000
    point = await store.resume_point(lease.job_id)
    assert point is not None
    assert point.iteration == 60
    middle = kept[len(kept) // 2]
    begun = await store.resume_point((await store.fork(lease.job_id, middle, spec, spec)).id)
    assert begun is not None
    assert begun.tensors == (middle - 1).to_bytes(2, "big") * 500  # left by the one before it
    with pytest.raises(ResultNotFound, match="has_vectors"):
        await store.fork(lease.job_id, next(n for n in range(60) if n not in kept), spec, spec)


async def test_full_store_refuses_new_jobs_and_keeps_room_for_the_running(
    store: Store, redis: Redis, spec: JobSpec, api: httpx.AsyncClient
) -> None:
    lease = await started(store, spec)
    await store.commit(lease, step(0))
    ended = (await store.cancel((await store.create(spec))[0].id)).id
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", str(used + used // 10))
    try:
        with pytest.raises(StoreFull, match="delete jobs"):
            await store.create(spec)
        with pytest.raises(StoreFull):
            await store.fork(lease.job_id, 0, spec, spec)
        answer = await api.post("/v1/jobs", json=spec.model_dump(mode="json"))
        assert (answer.status_code, answer.json()["code"]) == (507, "store_full")
        ready = await api.get("/readyz")
        assert (ready.status_code, "delete jobs" in ready.json()["warning"]) == (200, True)
        await store.commit(lease, step(1))
        await redis.config_set("maxmemory", str(used // 2))  # not a byte is left
        with pytest.raises(OutOfMemoryError):
            await store.commit(lease, step(2))
        await store.delete(ended)  # makes room even now
    finally:
        await redis.config_set("maxmemory", "0")
    await store.commit(lease, step(2))
    assert [r.iteration for r in (await store.history(lease.job_id)).data] == [0, 1, 2]


async def test_lines_of_replicas_are_paged_and_filtered(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    for number in range(5):
        await store.log(lease, number % 2, [f"line {number}"])
    page = await store.logs(lease.job_id, limit=3)
    assert [line.text for line in page.data] == ["line 0", "line 1", "line 2"]
    rest = await store.logs(lease.job_id, after=page.next)
    assert [line.text for line in rest.data] == ["line 3", "line 4"]
    odd = await store.logs(lease.job_id, replica=1)
    assert [line.text for line in odd.data] == ["line 1", "line 3"]


async def test_rollback_replaces_the_state_and_adds_an_event(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    await store.commit(lease, step(0))
    await store.roll_back(lease, ResumePoint(1, b"smaller", {"rollbacks": 1}), "went too far")
    point = await store.resume_point(lease.job_id)
    assert point == ResumePoint(1, b"smaller", {"rollbacks": 1})
    event = (await store.events(lease.job_id))[-1]
    assert (event.type, event.data["rollback"]) == ("rollback", 1)


async def test_old_jobs_are_deleted_with_all_that_is_theirs(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    await store.commit(lease, step(0))
    await store.act(lease, Action.SUCCEED, "iterations")
    assert await store.delete_ended_before(3_600_000) == 0
    assert await store.delete_ended_before(-1000) == 1
    assert await redis.keys(f"{keys.job('')}*") == []


async def test_chunk_that_the_running_state_shares_with_a_deleted_one_stays(
    redis: Redis, spec: JobSpec
) -> None:
    store = Store(redis, StoreSettings(vector_bytes=100))
    lease = await started(store, spec)
    for iteration in range(12):
        done = step(iteration, is_best=iteration == 0)
        same = {"next_state": ResumePoint(iteration + 1, b"zeros", {}), "hypergradient": b"zeros"}
        await store.commit(lease, MetaIterationCommit(**vars(done) | same))
    point = await store.resume_point(lease.job_id)
    assert point is not None
    assert point.tensors == b"zeros"


async def test_jobs_that_cannot_run_now_hide_nobody_behind_them(
    store: Store, spec: JobSpec
) -> None:
    limited = Capacity(cpus=4.0, gpus=0.0, tenant_jobs=1)
    await store.create(spec, tenant="busy")
    assert await store.claim("scheduler", 600.0, limited) is not None
    for _ in range(150):
        await store.create(with_changes(spec, resources={"gpus": 1}))
        await store.create(spec, tenant="busy")
    behind, _ = await store.create(spec)
    claimed = await store.claim("scheduler", 600.0, limited)
    assert claimed is not None
    assert claimed.job_id == behind.id


async def test_high_priority_makes_several_jobs_yield_where_one_place_is_not_enough(
    store: Store, spec: JobSpec
) -> None:
    two = with_changes(spec, resources={"cpus": 2})
    leases = [await started(store, two) for _ in range(2)]
    await store.create(with_changes(spec, resources={"cpus": 4}, priority=10))
    for lease in leases:
        assert await store.outranked(lease, CAPACITY)
        await store.act(lease, Action.YIELD, "preempted")
    assert await store.claim("scheduler", 10.0, CAPACITY) is not None
    assert await store.claim("scheduler", 10.0, CAPACITY) is None


async def test_job_of_the_same_tenant_makes_room_within_the_limit(
    store: Store, spec: JobSpec
) -> None:
    limited = Capacity(cpus=4.0, gpus=0.0, tenant_jobs=1)
    lease = await started(store, spec)
    await store.create(with_changes(spec, priority=10))
    assert await store.outranked(lease, limited)
    assert not await store.outranked(lease, CAPACITY)


async def test_scheduler_that_has_let_go_writes_nothing_more(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    await store.act(lease, Action.YIELD, "stopped")
    for late in (
        store.commit(lease, step(0)),
        store.log(lease, 0, ["late"]),
        store.warn(lease, "late", ""),
        store.act(lease, Action.FAIL, "late"),
        store.status(lease),
    ):
        with pytest.raises(LeaseLost):
            await late
    await store.cancel(lease.job_id)
    await store.delete(lease.job_id)
    with pytest.raises(LeaseLost):
        await store.log(lease, 0, ["late"])
    with pytest.raises(LeaseLost):
        await store.commit(lease, step(0))
    assert await redis.keys(f"{keys.job('')}*") == []


async def test_fork_that_fails_half_way_leaves_nothing_for_long(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    await store.commit(lease, step(0))
    fork = await store.fork(lease.job_id, 0, spec, spec)
    assert await redis.ttl(keys.job(fork.id, "chunks")) == -1
    await store._blobs.copy(lease.job_id, "job_never", (await store._state(fork.id))["chunks"])
    assert 0 < await redis.ttl(keys.job("job_never", "chunks")) <= 600


async def test_new_reader_of_trimmed_events_gets_a_reset(redis: Redis, spec: JobSpec) -> None:
    store = Store(redis, StoreSettings(events_kept=10))
    lease = await started(store, spec)
    for number in range(300):
        await store.warn(lease, "noise", str(number))
    assert (await store.events(lease.job_id))[0].type == "reset"


async def test_tenant_is_held_to_its_gpus(store: Store, spec: JobSpec) -> None:
    one = with_changes(spec, resources={"cpus": 1, "gpus": 1})
    mine = [(await store.create(one, tenant="a"))[0].id for _ in range(3)]
    other = (await store.create(one, tenant="b"))[0].id
    limited = Capacity(cpus=8.0, gpus=8.0, tenant_gpus=2.0)
    claims = [await store.claim("scheduler", 600.0, limited) for _ in range(4)]
    assert {claim.job_id for claim in claims if claim} == {*mine[:2], other}
    assert claims[3] is None


async def test_code_that_a_job_names_is_kept_however_old_it_is(store: Store, spec: JobSpec) -> None:
    await store.put_code("ab" * 32, b"zip")
    own = {"entrypoint": "module:build", "code": "sha256:" + "ab" * 32}
    tensor = [{"kind": "tensor", "name": "mixing"}]
    job, _ = await store.create(with_changes(spec, problem=own, hyperparameters=tensor))
    assert await store.delete_unused_code(-1000) == 0
    await store.cancel(job.id)
    await store.delete(job.id)
    assert await store.delete_unused_code(-1000) == 1


async def test_code_that_no_job_names_is_deleted_when_it_is_old(store: Store) -> None:
    await store.put_code("ab" * 32, b"zip")
    assert await store.delete_unused_code(3_600_000) == 0
    assert await store.delete_unused_code(-1000) == 1
    assert not await store.has_code("sha256:" + "ab" * 32)


async def test_the_last_warnings_of_a_job_are_kept_each_once(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    for number in (*range(25), 24, 20):
        await store.warn(lease, "slow", f"warning {number}")
    found = (await store.get(lease.job_id)).warnings
    assert [doubt.message for doubt in found] == [
        f"warning {number}" for number in (*range(5, 20), 21, 22, 23, 24, 20)
    ]
    assert len([e for e in await store.events(lease.job_id) if e.type == "warning"]) == 27


async def test_a_log_that_was_cut_says_how_many_lines_are_gone(store: Store, spec: JobSpec) -> None:
    job, _ = await store.create(spec)
    lease = await store.claim("here", 60.0, CAPACITY)
    assert lease is not None
    for start in range(0, 12_500, 2_500):  # more lines than a job keeps, and than one script takes
        await store.log(lease, 0, [f"line {n}" for n in range(start, start + 2_500)])
    first = await store.logs(job.id, limit=1)
    gone = int(re.sub(r"\D", "", first.data[0].text))
    assert 0 < gone <= 2_500
    assert first.data[0].text.startswith("… ")
    lines, after = [], first.next
    while after is not None:
        page = await store.logs(job.id, after, limit=1000)
        lines += [line.text for line in page.data]
        after = page.next if page.has_more else None
    assert lines == [f"line {n}" for n in range(gone, 12_500)]
