"""Downloads of models over HTTP: whole, by range, with digest and condition."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.records.job import JobError
from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.access.large_values import CHUNK_BYTES
from drmad_service.store.side_runs.recipe_data import KIND
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.store import ArtifactLocation
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(251)) * (3 * CHUNK_BYTES // 251)


@pytest.fixture(params=["redis", "artifact"])
async def model(request: pytest.FixtureRequest, redis: Redis, spec: JobSpec, tmp_path: Path) -> str:
    """The path of the model of a job, in Redis or in the artifact store of the API."""
    artifacts = ArtifactLocation(str(tmp_path)).open()
    store = Store(redis, artifacts=artifacts)
    lease = await started(store, spec)
    kept: bytes | Artifact = CONTENT
    if request.param == "artifact":
        with artifacts.scratch() as file:
            file.write_bytes(CONTENT)
            kept = artifacts.keep(file, f"jobs/{lease.job_id}/models")
    await store.commit(lease, replace(step(0), model=kept))
    return f"/v1/jobs/{lease.job_id}/model"


@pytest.fixture
async def api(redis_url: str, redis: Redis, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ApiSettings(redis_url=redis_url, data_dir=tmp_path))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client


async def test_a_model_is_sent_with_its_size_and_digest(api: httpx.AsyncClient, model: str) -> None:
    found = await api.get(model)
    assert (found.status_code, found.content == CONTENT) == (200, True)
    digest = hashlib.sha256(CONTENT)
    assert found.headers["repr-digest"] == (
        f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    )
    assert found.headers["etag"] == f'"{digest.hexdigest()}"'
    assert found.headers["content-length"] == str(len(CONTENT))
    assert found.headers["accept-ranges"] == "bytes"
    assert found.headers["x-meta-iteration"] == "0"
    assert found.headers["content-type"] == "application/vnd.safetensors"


@pytest.mark.parametrize(
    ("stated", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=1048570-1048590", 1_048_570, 1_048_590),
        (f"bytes={len(CONTENT) - 5}-", len(CONTENT) - 5, len(CONTENT) - 1),
        ("bytes=-7", len(CONTENT) - 7, len(CONTENT) - 1),
        ("bytes=2000000-99999999999", 2_000_000, len(CONTENT) - 1),
    ],
)
async def test_a_range_of_a_model(
    api: httpx.AsyncClient, model: str, stated: str, first: int, last: int
) -> None:
    found = await api.get(model, headers={"Range": stated})
    assert found.status_code == 206
    assert found.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert found.content == CONTENT[first : last + 1]
    assert found.headers["content-length"] == str(last + 1 - first)


async def test_conditions_name_the_file_that_is_meant(api: httpx.AsyncClient, model: str) -> None:
    etag = (await api.head(model)).headers["etag"]
    other = f'"{"0" * 64}"'
    rest = {"Range": "bytes=5-"}
    assert (await api.get(model, headers={"If-None-Match": etag})).status_code == 304
    assert (await api.get(model, headers={**rest, "If-Match": etag})).status_code == 206
    assert (await api.get(model, headers={**rest, "If-Range": etag})).status_code == 206
    assert (await api.get(model, headers={**rest, "If-Range": other})).status_code == 200
    changed = await api.get(model, headers={**rest, "If-Match": other})
    assert (changed.status_code, changed.json()["code"]) == (412, "file_changed")
    beyond = await api.get(model, headers={"Range": f"bytes={len(CONTENT)}-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(CONTENT)}"
    for several in ("bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=x"):
        assert (await api.get(model, headers={"Range": several})).content == CONTENT


async def test_the_data_of_a_recipe_are_written_when_they_are_asked_for(
    api: httpx.AsyncClient, redis: Redis, spec: JobSpec, tmp_path: Path
) -> None:
    artifacts = ArtifactLocation(str(tmp_path)).open()
    store = Store(redis, artifacts=artifacts)
    job_id = (await started(store, spec)).job_id
    path = f"/v1/jobs/{job_id}/data"

    async def answer(found: JobError | Artifact) -> None:
        while (request := await store.take(KIND)) is None:
            await asyncio.sleep(0.01)
        await store.answer_recipe_data(request.id, job_id, found)

    async with asyncio.TaskGroup() as tasks:
        refused = tasks.create_task(api.get(path))
        tasks.create_task(answer(JobError(code="invalid_problem", message="the code reads them")))
    failed = refused.result()
    assert (failed.status_code, failed.json()["detail"]) == (422, "the code reads them")

    with artifacts.scratch() as file:
        file.write_bytes(CONTENT)
        kept = artifacts.keep(file, f"jobs/{job_id}/retrained")
    async with asyncio.TaskGroup() as tasks:
        sent = tasks.create_task(api.get(path))
        tasks.create_task(answer(kept))
    assert sent.result().content == CONTENT
    # No worker is asked again: a download that broke off goes on from the same file.
    rest = await api.get(path, headers={"Range": "bytes=5-", "If-Match": f'"{kept.sha256}"'})
    assert (rest.status_code, rest.content) == (206, CONTENT[5:])
