from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors import numpy as safetensors

from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import JobError, JobRecord, PreflightReport, Proof
from drmad_client.records.problem_details import ProblemDetails
from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings
from drmad_service.store import Capacity, Lease, ResumePoint, Store
from drmad_service.store.layout.state_machine import Action
from tests.service.store.test_store import CAPACITY, step

pytestmark = pytest.mark.anyio


def problem(response: httpx.Response, status: int, code: str) -> ProblemDetails:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"].startswith("req_")
    details = ProblemDetails.model_validate_json(response.content)
    assert (response.status_code, details.status, details.code) == (status, status, code)
    return details


async def test_submitted_job_is_answered_with_its_place(
    api: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    response = await api.post("/v1/jobs", json=body)
    assert response.status_code == 201
    job = JobRecord.model_validate_json(response.content)
    assert response.headers["location"] == f"/v1/jobs/{job.id}"
    assert job.spec == JobSpec.model_validate(body)
    again = await api.get(response.headers["location"])
    assert JobRecord.model_validate_json(again.content) == job


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"hyperparameters": [{"kind": "l3"}]}, "hyperparameters[0].kind", "'l2'"),
        ({"training": {"steps": -5}}, "training.steps", "must be at least 1, got -5"),
        (
            {"training": {"steps": 10}, "hypergradient": {"method": "shortcut", "horizon": 11}},
            "hypergradient.horizon",
            "(with mode: online meta.window), 10, got 11",
        ),
        ({"problem": {"data": {"name": "digitz"}}}, "problem.data.name", "'mnist'"),
        ({"problem": {"data": {}}}, "problem.data.name", "required"),
        (
            {"training": {"batch_size": 1001}},
            "training.batch_size",
            "at most the 1000 training examples, got 1001",
        ),
        (
            {"problem": {"data": {"name": "digits", "train": 1700}}},
            "problem.data.train",
            "digits has 1797 examples",
        ),
        ({"hyperparameters": []}, "hyperparameters", "at least one hyperparameter"),
        (
            {"hyperparameters": [{"kind": "l2"}, {"kind": "l2"}]},
            "hyperparameters[1].name",
            "is taken; give each hyperparameter its own name",
        ),
        ({"trainning": {}}, "trainning", "not a known field"),
        ({"meta": {"learning_rate": 0}}, "meta.learning_rate", "must be above 0, got 0"),
        (
            {"hypergradient": {"method": "shortcut", "preset": "paper", "interpolation_nodes": 4}},
            "hypergradient.preset",
            "remove interpolation_nodes",
        ),
    ],
)
async def test_bad_field_is_named_with_advice_and_nothing_is_created(
    api: httpx.AsyncClient, body: dict[str, Any], change: dict[str, Any], path: str, words: str
) -> None:
    details = problem(await api.post("/v1/jobs", json=body | change), 422, "invalid_fields")
    assert [e.path for e in details.errors] == [path]
    assert words in details.errors[0].message
    assert (await api.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"name": ', 400, "invalid_json"),
        (b'{"name": "\xff\xfe"}', 400, "invalid_json"),
        (b"[]", 422, "invalid_fields"),
        (b"", 422, "invalid_fields"),
        (b'{"name": "' + b"x" * 60_000 + b'"}', 413, "body_too_large"),
    ],
)
async def test_unreadable_body_is_a_problem(
    api: httpx.AsyncClient, content: bytes, status: int, code: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await api.post("/v1/jobs", content=content, headers=headers)
    assert problem(response, status, code).detail
    assert (await api.get("/v1/jobs")).json()["data"] == []


async def test_body_without_announced_length_is_limited_too(api: httpx.AsyncClient) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 1000

    headers = {"content-type": "application/json"}
    problem(await api.post("/v1/jobs", content=endless(), headers=headers), 413, "body_too_large")


async def test_what_does_not_exist_is_404(api: httpx.AsyncClient) -> None:
    for path in ("", "/history", "/hyperparameters", "/model", "/events"):
        response = await api.get(f"/v1/jobs/job_none{path}")
        assert "job_none" in problem(response, 404, "job_not_found").detail
    problem(await api.post("/v1/jobs/job_none/cancel"), 404, "job_not_found")
    problem(await api.delete("/v1/jobs/job_none"), 404, "job_not_found")
    problem(await api.get("/v1/nothing"), 404, "not_found")
    problem(await api.put("/v1/jobs"), 405, "method_not_allowed")


async def test_the_spec_alone_is_validated_at_once(
    api: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    response = await api.post("/v1/jobs?validate_only=true&deep=false", json=body)
    assert response.status_code == 200
    assert JobSpec.model_validate_json(response.content) == JobSpec.model_validate(body)
    assert (await api.get("/v1/jobs")).json()["data"] == []


async def test_idempotency_key_is_held(api: httpx.AsyncClient, body: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "one"}
    first = await api.post("/v1/jobs", json=body, headers=headers)
    again = await api.post("/v1/jobs", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = await api.post("/v1/jobs", json=body | {"name": "other"}, headers=headers)
    problem(other, 409, "idempotency_conflict")


async def test_etag_and_wait_report_changes(
    api: httpx.AsyncClient, store: Store, body: dict[str, Any]
) -> None:
    created = await api.post("/v1/jobs", json=body)
    path, etag = created.headers["location"], created.headers["etag"]
    unchanged = await api.get(path, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    waiting = asyncio.create_task(
        api.get(path, headers={"If-None-Match": etag, "Prefer": "wait=30"})
    )
    await asyncio.sleep(0)  # the request is under way; it may see the change at once or be woken
    await store.cancel(created.json()["id"])
    response = await asyncio.wait_for(waiting, 10)
    assert response.status_code == 200
    assert response.json()["status"] == "cancelled"
    assert response.headers["etag"] != etag


async def finished(store: Store, spec: JobSpec) -> Lease:
    """A job with two meta-iterations of two hyperparameters, as a runner would leave it."""
    await store.create(spec)
    lease = await store.claim("scheduler", 10.0, CAPACITY)
    assert lease is not None
    raw = {"hyperparameters/l2": np.log(np.array([2.0, 4.0], dtype=np.float32))}
    infos = [HyperparameterInfo(name="l2", kind="l2", shape=[2], transform="exp")]
    await store.begin(lease, infos, ResumePoint(0, safetensors.save(raw), {"iteration": 0}))
    await store.act(lease, Action.RUN, "started")
    for iteration in range(2):
        done = step(iteration, loss=1.0 + iteration, is_best=iteration == 0)
        vectors = {
            "next_state": ResumePoint(iteration + 1, safetensors.save(raw), {}),
            "hypergradient": safetensors.save({"hyperparameters/l2": np.ones(2, np.float32)}),
        }
        await store.commit(lease, type(done)(**vars(done) | vectors))
    await store.act(lease, Action.SUCCEED, "iterations")
    return lease


async def test_results_come_as_json_and_as_safetensors(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    path = f"/v1/jobs/{(await finished(store, spec)).job_id}"
    history = (await api.get(f"{path}/history")).json()
    assert [record["iteration"] for record in history["data"]] == [0, 1]
    described = (await api.get(f"{path}/hyperparameters")).json()
    assert described["iteration"] == 0
    assert described["arrays"][0]["values"] == pytest.approx([2.0, 4.0])
    accept = {"Accept": "application/vnd.safetensors"}
    raw = await api.get(f"{path}/hyperparameters?iteration=last", headers=accept)
    assert safetensors.load(raw.content)["l2"] == pytest.approx(np.log([2.0, 4.0]))
    header = json.loads(raw.content[8 : 8 + int.from_bytes(raw.content[:8], "little")])
    assert header["__metadata__"] == {"iteration": "1", "transforms": '{"l2": "exp"}'}
    gradient = (await api.get(f"{path}/hypergradients?iteration=1")).json()
    assert gradient["arrays"][0]["values"] == [1.0, 1.0]
    model = await api.get(f"{path}/model")
    assert (model.content, model.headers["x-meta-iteration"]) == (b"model", "0")
    problem(await api.get(f"{path}/hyperparameters?iteration=9"), 404, "result_not_found")
    problem(await api.get(f"{path}/hyperparameters?iteration=x"), 422, "invalid_fields")


async def test_event_stream_has_every_event_and_ends(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    path = f"/v1/jobs/{(await finished(store, spec)).job_id}/events"
    stream = (await api.get(path)).text
    kinds = [line.split(": ")[1] for line in stream.splitlines() if line.startswith("event")]
    assert kinds == ["status", "status", "status", "iteration", "iteration", "status"]
    ids = [line.split(": ")[1] for line in stream.splitlines() if line.startswith("id")]
    rest = (await api.get(path, headers={"Last-Event-ID": ids[3]})).text
    assert [line.split(": ")[1] for line in rest.splitlines() if line.startswith("id")] == ids[4:]
    bad = await api.get(path, headers={"Last-Event-ID": "yesterday"})
    assert "must have the form" in problem(bad, 422, "invalid_fields").errors[0].message


async def test_only_ended_jobs_are_deleted(
    api: httpx.AsyncClient, store: Store, spec: JobSpec, body: dict[str, Any]
) -> None:
    queued = (await api.post("/v1/jobs", json=body)).headers["location"]
    assert "it is queued" in problem(await api.delete(queued), 409, "action_refused").detail
    assert (await api.post(f"{queued}/cancel")).json()["status"] == "cancelled"
    assert (await api.delete(queued)).status_code == 204
    problem(await api.get(queued), 404, "job_not_found")


async def test_catalog_lists_what_a_job_may_ask_for(api: httpx.AsyncClient) -> None:
    catalog = (await api.get("/v1/catalog")).json()
    kinds = {kind["name"] for kind in catalog["hyperparameters"]}
    assert kinds >= {"l2", "l1", "learning_rate", "momentum", "init_scale", "sample_weight"}
    assert kinds >= {"training_data", "loss_weight"}
    sizes = {d["name"]: d["examples"] for d in catalog["data"]}
    assert (sizes["digits"], sizes["mnist"], sizes["upload"]) == (1797, 70_000, None)
    assert catalog["schema"]["title"] == "JobSpec"


async def test_health_of_process_and_store(api: httpx.AsyncClient) -> None:
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    assert (await api.get("/readyz")).json() == {"status": "ready"}


REPORT = PreflightReport(
    hyperparameters={"sample_weight": [1000]},
    validation_loss=2.0,
    training_loss=2.1,
    steps=20,
    seconds=0.1,
    method="replay",
    fidelity={},
    job_seconds=3.0,
    memory_bytes=1000,
)

FAILED_PROOF = Proof(
    name="training",
    result="failed",
    detail="weights differ by 0.2 after 20 steps",
    where="0.weight",
    remedy="remove the hook",
    seconds=0.3,
)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (REPORT, 200),
        (REPORT.model_copy(update={"proofs": [FAILED_PROOF]}), 200),
        (JobError(code="user_code", message="boom", traceback="line 3"), 422),
    ],
)
async def test_a_check_waits_for_a_scheduler_and_answers_what_it_found(
    api: httpx.AsyncClient,
    store: Store,
    body: dict[str, Any],
    answer: PreflightReport | JobError,
    status: int,
) -> None:
    """One that starts only after the check was asked, as after `drmad up`."""
    asked = asyncio.create_task(api.post("/v1/jobs?validate_only=true", json=body))
    async with asyncio.timeout(60):
        while (question := await store.take("preflights")) is None:
            await asyncio.sleep(0.01)
    assert JobSpec.model_validate_json(question.content) == JobSpec.model_validate(body)
    assert not asked.done()
    await store.answer_preflight(question.id, answer)
    response = await asked
    assert response.status_code == status
    if isinstance(answer, PreflightReport):
        assert PreflightReport.model_validate_json(response.content) == answer
    else:
        assert problem(response, 422, "user_code").detail == "boom\nline 3"
    assert (await api.get("/v1/jobs")).json()["data"] == []


async def test_a_check_that_no_scheduler_takes_says_so_and_is_withdrawn(
    redis_url: str, store: Store, body: dict[str, Any]
) -> None:
    app = create_app(ApiSettings(redis_url=redis_url, check_wait_s=0.1))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as api,
    ):
        response = await api.post("/v1/jobs?validate_only=true", json=body)
        assert "drmad schedule" in problem(response, 409, "not_checked").detail
        assert await store.take("preflights") is None
        await store.claim("scheduler_1", 10.0, Capacity(1.0, 0.0))
        response = await api.post("/v1/jobs?validate_only=true", json=body)
        assert "retry later" in problem(response, 503, "not_checked").detail
