"""Uploaded data sets over HTTP: kept once, checked, bounded, and let go when nothing names them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from drmad_client.files.array_file import load, pack
from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from tests.service.api.test_api import problem

pytestmark = pytest.mark.anyio

CONTENT = pack({"inputs": np.eye(4, dtype=np.float32), "targets": np.arange(4)})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ADDRESS = f"/v1/data/{SHA256}"
LIMIT = 100_000


@pytest.fixture
async def api(redis: Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ApiSettings(redis_url, data_dir=tmp_path / "data", max_data_bytes=LIMIT))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client


def files(tmp_path: Path) -> list[str]:
    folder = tmp_path / "data"
    return sorted(os.listdir(folder)) if folder.exists() else []


async def test_data_are_kept_once_under_the_digest_of_their_bytes(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    assert (await api.head(ADDRESS)).status_code == 404
    answers = [await api.put(ADDRESS, content=CONTENT) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json() == {"data": f"sha256:{SHA256}", "size_bytes": len(CONTENT)}
    assert (await api.head(ADDRESS)).status_code == 204
    assert files(tmp_path) == [SHA256]
    assert load(tmp_path / "data" / SHA256)["targets"].tolist() == [0, 1, 2, 3]


async def test_what_is_refused_leaves_nothing_behind(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(10_000)

    other = "0" * 64
    details = problem(await api.put(f"/v1/data/{other}", content=CONTENT), 422, "invalid_fields")
    assert SHA256 in details.errors[0].message
    text = b"not an array at all"
    answer = await api.put(f"/v1/data/{hashlib.sha256(text).hexdigest()}", content=text)
    assert "npz or safetensors" in problem(answer, 422, "invalid_fields").errors[0].message
    problem(await api.put(ADDRESS, content=endless()), 413, "body_too_large")
    problem(await api.put(ADDRESS, content=bytes(LIMIT + 1)), 413, "body_too_large")
    problem(await api.put("/v1/data/..%2F..%2Fetc", content=CONTENT), 404, "not_found")
    problem(await api.put("/v1/data/short", content=CONTENT), 422, "invalid_fields")
    assert files(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] in ([], ["data"])


async def test_a_table_is_kept_and_named_by_a_job(
    api: httpx.AsyncClient, store: Store, body: dict[str, Any]
) -> None:
    table = b"area,city,price\n70,Oslo,300.5\n80,Bergen,310.5\n90,Oslo,320.5\n"
    sha256 = hashlib.sha256(table).hexdigest()
    data = {"name": "table", "data": f"sha256:{sha256}", "target": "price", "categorical": ["city"]}
    job = body | {"problem": {"model": {"name": "tabular"}, "data": data}}
    job |= {"training": {"steps": 2, "batch_size": 1}, "hyperparameters": [{"kind": "l2"}]}
    details = problem(await api.post("/v1/jobs", json=job), 422, "invalid_fields")
    assert [error.path for error in details.errors] == ["problem.data.data"]
    assert (await api.put(f"/v1/data/{sha256}", content=table)).status_code == 201
    assert (await api.post("/v1/jobs", json=job)).status_code == 201
    assert await store.unused_data(-1000) == []  # the job names it
    await api.put(f"/v1/data/{sha256}", content=table)
    on_workers = data | {"data": None, "path": "homes.csv"}
    job["problem"] = {"model": {"name": "tabular"}, "data": on_workers}
    assert (await api.post("/v1/jobs", json=job)).status_code == 201


@pytest.mark.parametrize(
    ("part", "path"),
    [
        (
            {"data": {"name": "upload", "data": f"sha256:{SHA256}", "train": 2, "valid": 2}},
            "problem.data.data",
        ),
        (
            {
                "entrypoint": "m:build",
                "code": "sha256:" + "ab" * 32,
                "data": f"sha256:{SHA256}",
            },
            "problem.data",
        ),
        ({"data": {"name": "digits"}, "weights": f"sha256:{SHA256}"}, "problem.weights"),
    ],
)
async def test_a_job_may_name_only_data_that_are_there(
    api: httpx.AsyncClient,
    store: Store,
    body: dict[str, Any],
    part: dict[str, Any],
    path: str,
) -> None:
    await store.put_code("ab" * 32, b"zip")
    job = body | {"problem": part, "training": {"steps": 2, "batch_size": 1}}
    job["hyperparameters"] = [{"kind": "l2"}]
    details = problem(await api.post("/v1/jobs", json=job), 422, "invalid_fields")
    assert [error.path for error in details.errors] == [path]
    assert "drmad data upload" in details.errors[0].message
    await api.put(ADDRESS, content=CONTENT)
    assert (await api.post("/v1/jobs", json=job)).status_code == 201
    assert await store.unused_data(-1000) == []  # the job names them
    for found in (await store.jobs()).data:
        await store.cancel(found.id)
        await store.delete(found.id)
    assert await store.unused_data(3_600_000) == []  # not old enough
    assert await store.unused_data(-1000) == [SHA256]
    assert await store.unused_data(-1000) == []
