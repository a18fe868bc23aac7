"""Retrainings in Redis: beside validations, with the models that they keep."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from drmad_client.records.side_runs.retraining import RetrainingReport
from drmad_client.spec.job import JobSpec
from drmad_client.spec.operation import NotifySpec
from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_client.spec.side_runs.validation import ValidationSpec
from drmad_service.errors import ResultNotFound, RetrainingRefused, RunLost
from drmad_service.operations.orphans import orphans
from drmad_service.scheduling.notifications.texts import webhook_body
from drmad_service.store import Capacity, Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from drmad_service.store.overview import Overview
from drmad_service.store.side_runs.base import KEPT, HeldRun
from tests.service.store.test_store import started, step
from tests.service.store.test_validations import FOUR, HOLD_S, ended_job, taken
from tests.service.stored_models import retrained_model

pytestmark = pytest.mark.anyio

REPORT = RetrainingReport.model_validate(
    {
        "steps": 20,
        "rows": 100,
        "dropped": 0,
        "seeds": 2,
        "diverged": 0,
        "untuned_diverged": 0,
        "with_validation": False,
        "best_seed": 1,
        "figures": {
            "test_error": {
                "tuned": {"mean": 0.051, "low": 0.047, "high": 0.055, "count": 2},
                "untuned": {"mean": 0.111, "low": 0.092, "high": 0.130, "count": 2},
                "difference": {"mean": -0.06, "low": -0.07, "high": -0.05, "count": 2},
            }
        },
    }
)


async def finished(store: Store, held: HeldRun, model: bytes) -> None:
    outcome: dict[str, Any] = {"report": REPORT.model_dump(mode="json"), "model_bytes": len(model)}
    outcome["model"] = await store.put_of_run(held, model)
    await store.finish_run(held, 4, 4, outcome)


async def test_a_retraining_runs_beside_a_validation_and_keeps_report_and_model(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    job_id = await ended_job(store, spec)
    await store.request_validation(job_id, 0, ValidationSpec())
    asked = RetrainingSpec(seeds=2, steps=50)
    found = await store.request_retraining(job_id, 0, asked)
    assert (found.status, found.iteration, found.asked, found.at_end) == ("queued", 0, asked, False)
    with pytest.raises(RetrainingRefused, match=found.id):
        await store.request_retraining(job_id, 0, asked)
    assert (await taken(store, Capacity(1.0, 0.0))).kind == "validation"
    held = await taken(store, Capacity(30.0, 0.0))
    assert (held.kind, held.id, held.workers) == ("retraining", found.id, 4)  # as many as it trains
    assert {orphan.key for orphan in await orphans(redis)} == set()
    model = bytes(range(256)) * 8192
    await finished(store, held, model)
    ended = await store.retraining(job_id, found.id)
    assert (ended.status, ended.report, ended.model_bytes) == ("succeeded", REPORT, len(model))
    assert await retrained_model(store, job_id, found.id) == model
    jobs = [await store.get(job_id), (await store.create(spec))[0]]
    validated, retrained = await Overview(redis, store, HOLD_S).side_runs(jobs)
    assert validated == retrained == {job_id}
    kinds = {e.data["id"]: e.type for e in await store.events(job_id) if "id" in e.data}
    assert kinds[found.id] == "retraining"
    with pytest.raises(RunLost):
        await store.put_of_run(held, b"late")


async def test_the_job_has_the_answer_until_it_is_extended(store: Store, spec: JobSpec) -> None:
    job_id = await ended_job(store, spec)
    await store.request_retraining(job_id, 0, RetrainingSpec(seeds=2), at_end=True)
    outcome = {"report": REPORT.model_dump(mode="json"), "headline": REPORT.headline}
    await store.finish_run(await taken(store), 4, 4, outcome)
    assert (await store.retrainings(job_id))[0].at_end
    assert (await store.get(job_id)).answer == REPORT.headline
    job = await store.get(job_id)
    longer = job.spec.meta.model_copy(update={"iterations": 9})
    await store.extend(job, job.spec.model_copy(update={"meta": longer}))
    assert (await store.get(job_id)).answer == ""


async def test_the_headline_is_the_answer() -> None:
    assert REPORT.headline == "test error 5.1 ± 0.4 % in place of 11.1 ± 1.9 %"
    diverged = REPORT.figures["test_error"].model_copy(update={"untuned": None})
    one = REPORT.model_copy(update={"figures": {"test_error": diverged}})
    assert one.headline == "test error 5.1 ± 0.4 % in place of a training that diverges"
    none = REPORT.model_copy(update={"figures": {}})
    assert none.headline == "all 2 training runs with the tuned hyperparameters diverged"


async def test_the_chunks_of_dropped_retrainings_go_unless_a_later_one_names_them(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    job_id = await ended_job(store, spec)
    ids = []
    for number in range(KEPT + 2):
        ids.append((await store.request_retraining(job_id, 0, RetrainingSpec())).id)
        await finished(store, await taken(store), b"same" if number in (1, 5) else b"%d" % number)
    assert [each.id for each in await store.retrainings(job_id)] == ids[:1:-1]
    assert await retrained_model(store, job_id, ids[5]) == b"same"
    kept: Any = await redis.hvals(keys.job(job_id, "retrained_chunks"))
    assert b"0" not in kept
    assert len(kept) == KEPT


async def test_a_retraining_of_a_lost_scheduler_is_taken_again(store: Store, spec: JobSpec) -> None:
    job_id = await ended_job(store, spec)
    found = await store.request_retraining(job_id, 0, RetrainingSpec())
    lost = await store.next_run(0.0, FOUR, 16)
    assert lost is not None
    again = await taken(store)
    assert (again.id, again.token == lost.token) == (found.id, False)
    with pytest.raises(RunLost):
        await store.put_of_run(lost, b"model")
    with pytest.raises(RunLost):
        await store.log_of_run(lost, "retraining 0", ["late"])
    await store.log_of_run(again, "retraining 1", ["a line"])
    (line,) = (await store.logs(job_id)).data
    assert (line.source, line.text) == ("retraining 1", "a line")
    assert (await store.logs(job_id, replica=1)).data == []
    assert await store.keep_run(again, 1, 10, HOLD_S) == "running"
    assert (await store.cancel_retraining(job_id, found.id)).status == "cancelling"
    await store.finish_run(again, 1, 10, None)
    assert (await store.retraining(job_id, found.id)).status == "cancelled"
    with pytest.raises(ResultNotFound, match="keeps no model: it is cancelled"):
        await retrained_model(store, job_id, found.id)
    with pytest.raises(ResultNotFound):
        await store.cancel_validation(job_id, found.id)


async def test_the_notice_of_a_job_waits_for_the_retraining_at_its_end(
    store: Store, spec: JobSpec
) -> None:
    notified = spec.model_copy(update={"notify": NotifySpec(webhook="https://example.com")})
    lease = await started(store, notified)
    await store.commit(lease, step(0))
    found = await store.request_retraining(lease.job_id, 0, RetrainingSpec(seeds=2), at_end=True)
    await store.act(lease, Action.SUCCEED, "iterations")
    assert await store.next_notice(HOLD_S) is None
    held = await taken(store)
    assert await store.next_notice(HOLD_S) is None
    outcome = {"report": REPORT.model_dump(mode="json"), "headline": REPORT.headline}
    await store.finish_run(held, 4, 4, outcome)
    notice = await store.next_notice(HOLD_S)
    assert notice is not None
    assert (notice.job_id, notice.attempt) == (lease.job_id, 1)
    sent = json.loads(webhook_body(await store.get(lease.job_id)))
    assert sent["job"]["answer"] == REPORT.headline
    await store.settle(notice, {"outcome": "delivered"})
    # One that a user asks for later notifies nobody, and none is waited for.
    await store.request_retraining(lease.job_id, 0, RetrainingSpec(seeds=2))
    await store.finish_run(await taken(store), 4, 4, outcome)
    assert await store.next_notice(HOLD_S) is None
    assert found.at_end


@pytest.mark.parametrize("begun", [False, True])
async def test_the_notice_follows_where_the_retraining_at_the_end_is_cancelled(
    store: Store, spec: JobSpec, begun: bool
) -> None:
    notified = spec.model_copy(update={"notify": NotifySpec(webhook="https://example.com")})
    lease = await started(store, notified)
    await store.commit(lease, step(0))
    found = await store.request_retraining(lease.job_id, 0, RetrainingSpec(seeds=2), at_end=True)
    await store.act(lease, Action.SUCCEED, "iterations")
    assert await store.next_notice(HOLD_S) is None
    held = await taken(store) if begun else None
    await store.cancel_retraining(lease.job_id, found.id)
    if held is not None:
        await store.finish_run(held, 1, 4, None)
    assert await store.next_notice(HOLD_S) is not None
