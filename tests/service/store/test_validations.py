"""Validations of hypergradients in Redis: requested, taken, held, finished."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from drmad_client.records.job import JobError
from drmad_client.records.side_runs.validation import ValidationReport
from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.validation import ValidationSpec
from drmad_service.errors import ResultNotFound, ValidationRefused
from drmad_service.operations.orphans import orphans
from drmad_service.store import Capacity, Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from drmad_service.store.side_runs.base import KEPT, HeldRun
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio

HOLD_S = 60.0
FOUR = Capacity(4.0, 0.0)
REPORT = ValidationReport.model_validate(
    {
        "method": {"method": "replay"},
        "cost": 4.0,
        "runs": 20.0,
        "validation_loss": 0.5,
        "correlations": [
            {
                "hyperparameter": "sample_weight",
                "kind": "left_out",
                "size": 0.1,
                "retrainings": 5,
                "diverged": 0,
                "value": 0.9,
                "low": 0.5,
                "high": 1.0,
            }
        ],
        "lds": {"sample_weight": {"value": 0.9, "low": 0.5, "high": 1.0}},
        "fidelity": 1.0,
        "agreement": {"cosine": 0.8, "low": 0.7, "high": 0.9, "draws": 2, "of_four": 0.94},
        "unknown": "",
        "gain": {"mean": 0.1, "low": None, "high": None, "count": 1},
        "gain_per_run": 0.025,
        "verdict": {"grade": "predicts", "sentence": "It predicts.", "remedies": []},
    }
)
OUTCOME = {"report": REPORT.model_dump(mode="json")}


async def ended_job(store: Store, spec: JobSpec, cpus: float = 1.0) -> str:
    """A job with one meta-iteration, which has ended."""
    resources = spec.resources.model_copy(update={"cpus": cpus})
    lease = await started(store, spec.model_copy(update={"resources": resources}))
    await store.commit(lease, step(0))
    await store.act(lease, Action.SUCCEED, "iterations")
    return lease.job_id


async def taken(store: Store, capacity: Capacity = FOUR) -> HeldRun:
    held = await store.next_run(HOLD_S, capacity, 16)
    assert held is not None
    return held


async def test_a_validation_is_requested_held_and_finished(store: Store, spec: JobSpec) -> None:
    job_id = await ended_job(store, spec)
    asked = ValidationSpec(changes=7)
    found = await store.request_validation(job_id, 0, asked)
    assert (found.status, found.iteration, found.asked) == ("queued", 0, asked)
    held = await taken(store)
    assert (held.job_id, held.id, held.workers) == (job_id, found.id, 4)
    assert await store.next_run(HOLD_S, FOUR, 16) is None
    assert await store.keep_run(held, 3, 20, HOLD_S) == "running"
    running = await store.validation(job_id, found.id)
    assert (running.done, running.total, running.workers) == (3, 20, 4)
    await store.finish_run(held, 20, 20, OUTCOME)
    (finished,) = await store.validations(job_id)
    assert finished.status == "succeeded"
    assert finished.report == REPORT
    assert finished.finished_at is not None
    assert await store.keep_run(held, 3, 20, HOLD_S) == "lost"
    kinds = [(e.type, e.data["status"]) for e in await store.events(job_id) if "id" in e.data]
    assert kinds == [("validation", s) for s in ("queued", "running", "succeeded")]


async def test_the_state_that_is_validated_is_that_of_the_meta_iteration(
    store: Store, spec: JobSpec
) -> None:
    job_id = await ended_job(store, spec)
    with pytest.raises(ResultNotFound):
        await store.request_validation(job_id, 5, ValidationSpec())
    await store.request_validation(job_id, 0, ValidationSpec())
    point = await store.validated_state(await taken(store))
    assert point.iteration == 0
    assert point.tensors == await store.vectors(job_id, 0, "state")


async def test_one_validation_of_a_job_at_a_time(store: Store, spec: JobSpec) -> None:
    job_id = await ended_job(store, spec)
    first = await store.request_validation(job_id, 0, ValidationSpec())
    with pytest.raises(ValidationRefused, match=first.id):
        await store.request_validation(job_id, 0, ValidationSpec())
    other = await ended_job(store, spec)
    await store.request_validation(other, 0, ValidationSpec())


async def test_jobs_come_first_and_their_resources_are_left_to_them(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    job_id = await ended_job(store, spec)
    validation = await store.request_validation(job_id, 0, ValidationSpec())
    await store.create(spec)
    assert await store.next_run(HOLD_S, FOUR, 16) is None
    lease = await store.claim("scheduler", HOLD_S, FOUR)
    assert lease is not None
    assert await store.next_run(HOLD_S, Capacity(1.0, 0.0), 16) is None
    held = await taken(store)
    assert held.workers == 3
    reserved: Any = await redis.hgetall(keys.RESERVATIONS)
    assert reserved[validation.id.encode()] == b"3 0 local"
    assert {orphan.key for orphan in await orphans(redis)} == set()
    await store.create(spec)
    assert await store.claim("scheduler", HOLD_S, FOUR) is None
    await store.finish_run(held, 0, 0, JobError(code="user_code", message="no"))
    assert await store.claim("scheduler", HOLD_S, FOUR) is not None
    assert (await store.validation(job_id, validation.id)).status == "failed"


async def test_the_validation_of_a_lost_scheduler_is_taken_again(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    job_id = await ended_job(store, spec)
    await store.request_validation(job_id, 0, ValidationSpec())
    lost = await store.next_run(0.0, FOUR, 2)
    assert lost is not None
    again = await taken(store)
    assert again.id == lost.id
    assert again.token != lost.token
    reserved: Any = await redis.hgetall(keys.RESERVATIONS)
    assert list(reserved.values()) == [b"4 0 local"]
    assert await store.keep_run(lost, 1, 2, HOLD_S) == "lost"
    await store.finish_run(lost, 1, 2, OUTCOME)
    assert (await store.validation(job_id, again.id)).status == "running"


async def test_a_scheduler_that_stops_releases_its_validation(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    job_id = await ended_job(store, spec)
    await store.request_validation(job_id, 0, ValidationSpec())
    held = await taken(store)
    await store.keep_run(held, 1, 2, 0.0)
    assert await redis.hgetall(keys.RESERVATIONS) == {}
    assert (await taken(store)).id == held.id


async def test_a_validation_is_cancelled_in_every_state(store: Store, spec: JobSpec) -> None:
    job_id = await ended_job(store, spec)
    queued = await store.request_validation(job_id, 0, ValidationSpec())
    assert (await store.cancel_validation(job_id, queued.id)).status == "cancelled"
    assert await store.next_run(HOLD_S, FOUR, 16) is None
    running = await store.request_validation(job_id, 0, ValidationSpec())
    held = await taken(store)
    assert (await store.cancel_validation(job_id, running.id)).status == "cancelling"
    assert await store.keep_run(held, 1, 2, HOLD_S) == "cancelling"
    await store.finish_run(held, 1, 2, None)
    assert (await store.validation(job_id, running.id)).status == "cancelled"
    with pytest.raises(ValidationRefused, match="it is cancelled"):
        await store.cancel_validation(job_id, running.id)
    with pytest.raises(ResultNotFound):
        await store.cancel_validation(job_id, "validation_none")


async def test_a_lost_validation_that_was_cancelled_ends(store: Store, spec: JobSpec) -> None:
    job_id = await ended_job(store, spec)
    running = await store.request_validation(job_id, 0, ValidationSpec())
    assert await store.next_run(0.0, FOUR, 16) is not None
    await store.cancel_validation(job_id, running.id)
    assert await store.next_run(HOLD_S, FOUR, 16) is None
    assert (await store.validation(job_id, running.id)).status == "cancelled"


async def test_deleting_the_job_ends_its_validation(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    job_id = await ended_job(store, spec)
    await store.request_validation(job_id, 0, ValidationSpec())
    held = await taken(store)
    await store.delete(job_id)
    assert await store.keep_run(held, 1, 2, HOLD_S) == "lost"
    assert await redis.hgetall(keys.RESERVATIONS) == {}
    assert await redis.exists(keys.job(job_id, "validations"), keys.RUNS) == 0


async def test_the_last_validations_are_kept(store: Store, spec: JobSpec) -> None:
    job_id = await ended_job(store, spec)
    ids = []
    for _ in range(KEPT + 2):
        ids.append((await store.request_validation(job_id, 0, ValidationSpec())).id)
        await store.finish_run(await taken(store), 1, 1, OUTCOME)
    assert [each.id for each in await store.validations(job_id)] == ids[:1:-1]


async def test_a_record_without_its_place_in_the_queue_is_not_open_for_ever(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    job_id = await ended_job(store, spec)
    await store.request_validation(job_id, 0, ValidationSpec())
    await redis.delete(keys.RUNS)  # as a backup that was restored
    (found,) = await store.validations(job_id)
    assert found.status == "failed"
    assert found.error is not None
    assert "request it again" in found.error.message
    await store.request_validation(job_id, 0, ValidationSpec())
