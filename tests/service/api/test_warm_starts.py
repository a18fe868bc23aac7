"""A job that starts from the values of another: refused by the field, and kept if that one goes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from drmad_client.spec.job import JobSpec
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.store import Store
from drmad_service.store.layout.state_machine import Action
from tests.service.api.test_owners import key_of
from tests.service.api.test_tenants import access, locked
from tests.service.store.test_store import started, step

__all__ = ["access", "locked"]

pytestmark = pytest.mark.anyio

NOBODY = "job_01JD7X8Z9T3V5W6Y7A8B9C0D1E"
RATE = {"kind": "learning_rate", "per": "step", "name": "w"}


async def source(store: Store, body: dict[str, Any], **changes: Any) -> str:
    fields = body | {"hyperparameters": [{"kind": "l2", "name": "w"}]} | changes
    lease = await started(store, JobSpec.model_validate(fields))
    await store.commit(lease, step(0))
    await store.commit(lease, step(1, is_best=False))
    await store.act(lease, Action.FAIL, "test")
    return lease.job_id


async def refusal(api: httpx.AsyncClient, fields: dict[str, Any]) -> tuple[str, str]:
    answer = await api.post("/v1/jobs", json=fields)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    return error["path"], error["message"]


async def test_the_values_outlive_the_job_that_tuned_them(
    api: httpx.AsyncClient, store: Store, body: dict[str, Any]
) -> None:
    other = await source(store, body)
    fields = body | {"hyperparameters": [{"kind": "l2", "name": "w"}], "start": {"job": other}}
    answer = await api.post("/v1/jobs", json=fields)
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    assert answer.json()["started_from"] == f"{other}@0"
    assert (await api.delete(f"/v1/jobs/{other}")).status_code == 204
    warm = await store.warm_start(job_id)
    assert warm is not None
    assert (warm.tensors, list(warm.infos), warm.schedules) == (b"state 0", ["w"], [])
    assert (await store.warm_start(NOBODY)) is None


async def test_last_and_a_number_choose_the_meta_iteration(
    api: httpx.AsyncClient, store: Store, body: dict[str, Any]
) -> None:
    other = await source(store, body)
    fields = body | {"hyperparameters": [{"kind": "l2", "name": "w"}]}
    for which, number in (("last", 1), (0, 0)):
        start = {"job": other, "iteration": which}
        answer = await api.post("/v1/jobs", json=fields | {"start": start})
        assert answer.json()["started_from"] == f"{other}@{number}"
        warm = await store.warm_start(answer.json()["id"])
        assert warm is not None
        assert warm.tensors == f"state {number}".encode()


async def test_a_start_that_does_not_fit_is_refused_by_its_field(
    api: httpx.AsyncClient, store: Store, body: dict[str, Any]
) -> None:
    penalty = {"kind": "l2", "name": "w", "per": "layer"}
    other = await source(store, body, hyperparameters=[penalty])
    fresh, _ = await store.create(JobSpec.model_validate(body))
    fits = body | {"hyperparameters": [penalty]}
    for start, changes, path, words in (
        ({"job": NOBODY}, {}, "start.job", "there is no job"),
        ({"job": "mine"}, {}, "start.job", "match"),
        ({"job": fresh.id}, {}, "start.iteration", "has no meta-iteration"),
        ({"job": other, "iteration": 9}, {}, "start.iteration", "has no meta-iteration"),
        ({"job": other, "iteratoin": 1}, {}, "start.iteratoin", "not a known field"),
        ({"job": other}, {"hyperparameters": body["hyperparameters"]}, "start.job", "tunes w"),
        ({"job": other}, {"hyperparameters": [RATE]}, "hyperparameters[0].kind", "must be l2"),
        (
            {"job": other},
            {"hyperparameters": [penalty | {"per": "unit"}]},
            "hyperparameters[0].per",
            "as in the job it starts from",
        ),
        (
            {"job": other},
            {"search": {"parameters": {"training.learning_rate": {"low": 0.01, "high": 0.1}}}},
            "start",
            "both choose the first values",
        ),
    ):
        found, message = await refusal(api, fits | changes | {"start": start})
        assert found == path, (start, changes)
        assert words in message


async def test_weights_of_other_rows_are_refused(
    api: httpx.AsyncClient, store: Store, body: dict[str, Any]
) -> None:
    weights = [{"kind": "sample_weight", "name": "w"}]
    other = await source(store, body, hyperparameters=weights)
    data = {"name": "digits", "train": 200}
    fields = body | {"problem": {"data": data}, "hyperparameters": weights}
    path, message = await refusal(api, fields | {"start": {"job": other}})
    assert path == "hyperparameters[0].kind"
    assert "has 200 entries here and" in message


async def test_another_tenants_job_is_no_job(
    locked: httpx.AsyncClient, access: Access, store: Store, body: dict[str, Any]
) -> None:
    other = await source(store, body)
    _, key = await key_of(access, Scope.SUBMIT, "b")
    fields = body | {"hyperparameters": [{"kind": "l2", "name": "w"}], "start": {"job": other}}
    answer = await locked.post("/v1/jobs", json=fields, headers=key)
    assert answer.status_code == 422
    assert "there is no job" in answer.json()["errors"][0]["message"]
