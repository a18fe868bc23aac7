"""Forks over HTTP: refused with the field, or adapted with a sentence in the record."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from drmad_client.records.job import JobError, JobRecord, Progress, Proof
from drmad_client.spec.job import JobSpec
from drmad_service.store import Capacity, MetaIterationCommit, ResumePoint, Store
from drmad_service.store.layout.state_machine import Action
from tests.client import samples
from tests.service.store.test_forked_state import SCALARS
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio


async def ended_at(store: Store, spec: JobSpec) -> str:
    """A job with a kept state of SCALARS before meta-iteration 1."""
    lease = await started(store, spec)
    begun = ResumePoint(1, b"state 1", SCALARS)
    await store.commit(lease, MetaIterationCommit(**vars(step(0)) | {"next_state": begun}))
    await store.commit(lease, step(1))
    return lease.job_id


async def test_fork_says_what_of_the_state_was_adapted(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    job_id = await ended_at(store, spec)
    changes = {"hypergradient": {"hvp": "finite_difference"}}
    answer = await api.post(f"/v1/jobs/{job_id}/fork", json={"iteration": 1, "changes": changes})
    assert answer.status_code == 201, answer.text
    fork = JobRecord.model_validate_json(answer.content)
    assert fork.adapted == ["auto probes again, because hypergradient changed"]
    point = await store.resume_point(fork.id)
    assert point is not None
    assert point.scalars["choice"] is None
    assert point.scalars["recent_losses"] == SCALARS["recent_losses"]
    assert (await store.get(fork.id)).adapted == fork.adapted
    page = await api.get(f"/jobs/{fork.id}")
    assert fork.adapted[0] in page.text


async def test_extending_a_job_that_failed_its_preflight_says_what_to_do(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    await store.create(spec)
    lease = await store.claim("scheduler", 10.0, Capacity(4.0, 0.0))
    assert lease is not None
    wrong = Proof(name="unchanged", result="failed", detail="batch 3 differs", seconds=0.0)
    report = samples.PREFLIGHT.model_copy(update={"proofs": [wrong]})
    await store.keep_preflight(lease, report, Progress(iterations=3))
    refusal = report.refusal(spec.preflight)
    error = JobError(code="preflight_failed", message=refusal)
    await store.act(lease, Action.FAIL, error.code, refusal, error)
    answer = await api.post(f"/v1/jobs/{lease.job_id}/extend", json={"iterations": 1})
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        f"cannot extend job {lease.job_id}: it is failed, because its preflight failed, and the "
        "same spec would fail it again; submit a new job with the cause corrected, or with the "
        "failed proofs in preflight.override"
    )
    assert (await store.get(lease.job_id)).status == "failed"


async def test_fork_without_changes_keeps_the_state(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    job_id = await ended_at(store, spec)
    answer = await api.post(f"/v1/jobs/{job_id}/fork", json={"iteration": 1})
    fork = JobRecord.model_validate_json(answer.content)
    assert fork.adapted == []
    point = await store.resume_point(fork.id)
    assert point is not None
    assert point.scalars["choice"] == SCALARS["choice"]


async def test_fork_of_a_schedule_to_other_steps_is_refused_at_once(
    api: httpx.AsyncClient, store: Store, body: dict[str, Any]
) -> None:
    spec = JobSpec.model_validate(body | {"hyperparameters": [{"kind": "learning_rate"}]})
    job_id = await ended_at(store, spec)
    request = {"iteration": 1, "changes": {"training": {"steps": 10}}}
    answer = await api.post(f"/v1/jobs/{job_id}/fork", json=request)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["path"] == "changes.training.steps"
    assert error["message"].startswith("must stay 20, got 10")
    assert len((await store.jobs()).data) == 1
    changed = spec.model_dump(mode="json")
    changed["training"]["steps"] = 10
    draft = await api.post("/new/check", json={"job": changed, "fork_of": job_id})
    (finding,) = draft.json()["draft"]["findings"]
    assert (finding["path"], finding["message"]) == ("training.steps", error["message"])
