"""The routes of validations, over a real Redis."""

from __future__ import annotations

import httpx
import pytest

from drmad_client.records.side_runs.validation import Validation
from drmad_client.spec.job import JobSpec
from drmad_service.store import Store
from tests.service.store.test_store import started, step
from tests.service.store.test_validations import OUTCOME, ended_job, taken

pytestmark = pytest.mark.anyio


async def test_a_validation_is_requested_listed_and_cancelled(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    path = f"/v1/jobs/{await ended_job(store, spec)}/validations"
    assert (await api.get(path)).json()["data"] == []
    answer = await api.post(path, json={"iteration": "last", "changes": 9})
    assert answer.status_code == 202
    requested = Validation.model_validate(answer.json())
    assert (requested.iteration, requested.asked.changes, requested.status) == (0, 9, "queued")
    place = answer.headers["Location"]
    assert (await api.get(place)).json() == answer.json()
    again = await api.post(path, json={})
    assert (again.status_code, again.json()["code"]) == (409, "validation_refused")
    assert (await api.post(f"{place}/cancel")).json()["status"] == "cancelled"
    assert (await api.post(f"{place}/cancel")).status_code == 409
    (listed,) = (await api.get(path)).json()["data"]
    assert listed["status"] == "cancelled"


async def test_what_is_unknown_or_out_of_bounds_is_refused_by_field(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    assert (await api.post("/v1/jobs/job_none/validations", json={})).status_code == 404
    job_id = await ended_job(store, spec)
    path = f"/v1/jobs/{job_id}/validations"
    assert (await api.get(f"{path}/validation_none")).status_code == 404
    assert (await api.post(f"{path}/validation_none/cancel")).status_code == 404
    missing = await api.post(path, json={"iteration": 99})
    assert missing.json()["code"] == "result_not_found"
    wrong = await api.post(path, json={"changes": 1, "radii": [], "speed": 2})
    assert wrong.status_code == 422
    assert {error["path"] for error in wrong.json()["errors"]} == {"changes", "radii", "speed"}
    queued, _ = await store.create(spec)
    early = await api.post(f"/v1/jobs/{queued.id}/validations", json={})
    assert early.json()["code"] == "result_not_found"


async def test_the_page_shows_the_verdict_and_offers_what_is_allowed(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    page = f"/jobs/{lease.job_id}"
    assert "Validate by retraining" not in (await api.get(page)).text  # nothing to validate yet
    await store.commit(lease, step(0))
    assert "Validate by retraining" in (await api.get(page)).text
    await api.post(f"/v1{page}/validations", json={})
    text = (await api.get(page)).text
    assert "data-unfinished" in text
    assert "Cancel validation" in text
    held = await taken(store)
    await store.keep_run(held, 3, 20, 60.0)
    assert "3 of 20 training runs on 3 workers" in (await api.get(page)).text
    await store.finish_run(held, 20, 20, OUTCOME)
    text = (await api.get(page)).text
    for shown in ("It predicts.", "10 % left out", "cosine 0.8", "0.025 per training run"):
        assert shown in text
    assert "data-unfinished" not in text
