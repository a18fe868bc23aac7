"""Preflights of jobs that are not created, with what the service itself refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from drmad_client.records.job import JobError, PreflightReport
from drmad_client.spec.job import JobSpec
from drmad_service.cancellation import cancel_and_wait
from drmad_service.scheduling import preflight_requests
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store

pytestmark = pytest.mark.anyio

MEASURED: dict[str, Any] = {
    "hyperparameters": {},
    "validation_loss": 0.5,
    "training_loss": 0.5,
    "steps": 20,
    "seconds": 0.1,
    "method": "stored",
    "fidelity": {},
    "job_seconds": 1.0,
    "memory_bytes": 10,
    "checkpoint_bytes": 600,
}


@pytest.mark.parametrize(("most", "refused"), [(1000, True), (1200, False)])
async def test_checkpoints_larger_than_the_service_keeps_are_refused_before_a_job_exists(
    store: Store, spec: JobSpec, monkeypatch: pytest.MonkeyPatch, most: int, refused: bool
) -> None:
    async def measured(*_: Any) -> dict[str, Any]:
        return MEASURED

    monkeypatch.setattr(preflight_requests, "answer_of_worker", measured)
    two = spec.model_copy(update={"replicas": spec.replicas.model_copy(update={"count": 2})})
    settings = SchedulerSettings("redis:", max_model_bytes=most, poll_s=0.01)
    driver: Any = None  # what it would be asked is given
    answering = asyncio.create_task(preflight_requests.answer_preflights(store, settings, driver))
    try:
        answer = await store.preflight_answer(await store.request_preflight(two, "a"), 60.0)
    finally:
        await cancel_and_wait([answering])
    if refused:
        assert isinstance(answer, JobError)
        assert answer.code == "checkpoint_too_large"
        assert "got 600 for each of 2" in answer.message
    else:
        assert isinstance(answer, PreflightReport)
