"""The routes of retrainings, over a real Redis."""

from __future__ import annotations

import httpx
import pytest

from drmad_client.records.side_runs.retraining import Retraining
from drmad_client.spec.hyperparameters import L2Hyperparameter
from drmad_client.spec.job import JobSpec
from drmad_service.store import Store
from tests.service.store.test_retrainings import finished
from tests.service.store.test_validations import ended_job, taken

pytestmark = pytest.mark.anyio


async def test_a_retraining_is_requested_listed_cancelled_and_its_model_fetched(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    path = f"/v1/jobs/{await ended_job(store, spec)}/retrainings"
    answer = await api.post(path, json={"iteration": "last", "seeds": 3, "steps": 7})
    assert answer.status_code == 202
    requested = Retraining.model_validate(answer.json())
    assert (requested.iteration, requested.asked.seeds, requested.status) == (0, 3, "queued")
    place = answer.headers["Location"]
    assert (await api.get(place)).json() == answer.json()
    again = await api.post(path, json={})
    assert (again.status_code, again.json()["code"]) == (409, "retraining_refused")
    assert (await api.post(f"{place}/cancel")).json()["status"] == "cancelled"
    assert (await api.post(f"{place}/cancel")).status_code == 409
    assert (await api.get(f"{place}/model")).json()["code"] == "result_not_found"
    second = (await api.post(path, json={})).headers["Location"]
    await finished(store, await taken(store), b"model")
    assert (await api.get(f"{second}/model")).content == b"model"
    listed = (await api.get(path)).json()["data"]
    assert [each["status"] for each in listed] == ["succeeded", "cancelled"]


async def test_what_does_not_fit_the_job_is_refused_by_field(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    assert (await api.post("/v1/jobs/job_none/retrainings", json={})).status_code == 404
    penalties_alone = spec.model_copy(update={"hyperparameters": [L2Hyperparameter()]})
    path = f"/v1/jobs/{await ended_job(store, penalties_alone)}/retrainings"

    async def refused(**body: object) -> dict[str, str]:
        answer = await api.post(path, json=body)
        assert answer.status_code == 422
        return {each["path"]: each["message"] for each in answer.json()["errors"]}

    assert (await refused(seeds=1, steps=0, speed=2)).keys() == {"seeds", "steps", "speed"}
    assert "tunes no sample_weight" in (await refused(threshold=0.5))["threshold"]
    assert "100%" in (await refused(drop_lowest="100%"))["drop_lowest"]
    assert "query of an attribution" in (await refused(query="valid"))["query"]


async def test_the_page_offers_a_retraining_and_shows_its_answer(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    page = f"/jobs/{await ended_job(store, spec)}"
    assert 'data-action="retrainings"' in (await api.get(page)).text
    requested = (await api.post(f"/v1{page}/retrainings", json={"seeds": 2})).json()
    held = await taken(store)
    await store.keep_run(held, 1, 4, 60.0)
    text = (await api.get(page)).text
    assert "1 of 4 training runs on 4 workers" in text
    assert f'data-action="retrainings/{requested["id"]}/cancel"' in text
    assert "data-unfinished" in text
    await finished(store, held, b"model")
    text = (await api.get(page)).text
    for shown in (
        "test error 5.1 ± 0.4 % in place of 11.1 ± 1.9 %",
        "-6.0 ± 1.0 %",
        "2 seeds, 20 steps on the training rows",
        f"/v1{page}/retrainings/{requested['id']}/model",
    ):
        assert shown in text
    assert "data-unfinished" not in text
