"""Hyperparameters and hypergradients by pages and as a stream, from Redis and as artifacts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis
from safetensors import numpy as safetensors

from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings
from drmad_service.store import Lease, ResumePoint, Store
from drmad_service.store.layout.state_machine import Action
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import JobArtifacts, Kept
from drmad_workers.artifacts.store import VECTORS, ArtifactLocation
from tests.service.api.test_api import problem
from tests.service.store.test_store import CAPACITY, step

pytestmark = pytest.mark.anyio

COUNT = 25_001
RAW = np.linspace(-3.0, 3.0, COUNT, dtype=np.float32)


@pytest.fixture
async def api(redis_url: str, redis: Redis, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ApiSettings(redis_url=redis_url, data_dir=tmp_path))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client


@pytest.fixture(params=["redis", "artifact"])
async def job(request: pytest.FixtureRequest, redis: Redis, spec: JobSpec, tmp_path: Path) -> str:
    """The path of a job with one meta-iteration of a vector and a number."""
    artifacts = ArtifactLocation(str(tmp_path)).open()
    store = Store(redis, artifacts=artifacts)
    await store.create(spec)
    lease = await store.claim("scheduler", 10.0, CAPACITY)
    assert lease is not None
    raw: dict[str, Any] = {
        "hyperparameters/w": RAW,
        "hyperparameters/rate/all": np.array([[0.5]], np.float64),
    }
    state = safetensors.save(raw | {"optimizer/mean/w": RAW, "steps": np.array([3], np.int64)})
    gradient = safetensors.save({name: 2.0 * value for name, value in raw.items()})
    infos = [
        HyperparameterInfo(name="w", kind="l2", shape=[COUNT], transform="exp"),
        HyperparameterInfo(name="rate/all", kind="rate", shape=[1, 1], transform="identity"),
    ]
    kept = [_kept(request.param, each, artifacts.location, lease) for each in (state, gradient)]
    await store.begin(lease, infos, ResumePoint(0, kept[0], {"iteration": 0}))
    await store.act(lease, Action.RUN, "started")
    done = step(0)
    changed = {"next_state": ResumePoint(1, kept[0], {}), "hypergradient": kept[1]}
    await store.commit(lease, type(done)(**vars(done) | changed))
    return f"/v1/jobs/{lease.job_id}"


def _kept(where: str, content: bytes, location: ArtifactLocation, lease: Lease) -> Kept:
    if where == "redis":
        return content
    kept = JobArtifacts(location, lease.job_id, 0).keep_content(VECTORS, content)
    assert isinstance(kept, Artifact)
    return kept


async def test_pages_together_are_the_vector_in_the_users_units(
    api: httpx.AsyncClient, job: str
) -> None:
    values: list[float] = []
    offset: int | None = 0
    while offset is not None:
        found = (await api.get(f"{job}/hyperparameters/w?offset={offset}&limit=10000")).json()
        assert (found["name"], found["shape"], found["offset"]) == ("w", [COUNT], len(values))
        values += found["values"]
        offset = found["next"]
        assert found["has_more"] is (offset is not None)
    assert np.array_equal(np.array(values, np.float32), np.exp(RAW))
    last = (await api.get(f"{job}/hypergradients/w?offset=25000")).json()
    assert last["values"] == [6.0]
    beyond = (await api.get(f"{job}/hyperparameters/w?offset=25001")).json()
    assert (beyond["values"], beyond["has_more"]) == ([], False)
    problem(await api.get(f"{job}/hyperparameters/w?limit=10001"), 422, "invalid_fields")
    missing = await api.get(f"{job}/hyperparameters/v")
    assert "has no hyperparameter 'v'; it has w, rate/all" in (
        problem(missing, 404, "result_not_found").detail
    )


async def test_the_file_is_streamed_with_its_size_and_reads_as_it_was_written(
    api: httpx.AsyncClient, job: str
) -> None:
    accept = {"Accept": "application/vnd.safetensors"}
    found = await api.get(f"{job}/hyperparameters", headers=accept)
    assert found.headers["content-length"] == str(len(found.content))
    arrays = safetensors.load(found.content)
    assert arrays.keys() == {"w", "rate/all"}
    assert np.array_equal(arrays["w"], RAW)
    assert arrays["rate/all"].tolist() == [[0.5]]
    described = (await api.get(f"{job}/hypergradients")).json()["arrays"]
    assert described[0]["values"] is None
    assert [described[0][n] for n in ("minimum", "median", "maximum")] == [-6.0, 0.0, 6.0]
    assert described[1]["values"] == [[1.0]]
