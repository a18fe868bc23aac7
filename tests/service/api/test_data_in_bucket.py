"""Uploaded data beside an artifact store elsewhere: other APIs and workers find them there."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from drmad_client.files.array_file import pack
from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings
from drmad_service.store.files.data_folder import DataFolder
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.store import ArtifactLocation
from tests.s3 import S3
from tests.service.api.test_api import problem

pytestmark = pytest.mark.anyio

CONTENT = pack({"inputs": np.eye(4, dtype=np.float32), "targets": np.arange(4)})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ADDRESS = f"/v1/data/{SHA256}"


@asynccontextmanager
async def api(
    redis_url: str, folder: Path, location: ArtifactLocation
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ApiSettings(redis_url, data_dir=folder, artifacts=location))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client


async def test_data_in_a_bucket_are_found_by_an_api_without_the_folder(
    redis: Redis, redis_url: str, tmp_path: Path, s3: S3
) -> None:
    location = s3.new_bucket()
    async with api(redis_url, tmp_path / "one", location) as one:
        length = {"offset": 0, "length": len(CONTENT)}
        found = await one.patch(f"{ADDRESS}/parts", params=length, content=CONTENT)
        assert found.status_code == 201
    store = location.open()
    assert store.read(SHA256, Artifact(SHA256, len(CONTENT))) == CONTENT
    async with api(redis_url, tmp_path / "other", location) as other:
        assert (await other.head(ADDRESS)).status_code == 204
    DataFolder(tmp_path / "one", store).remove(SHA256)
    assert not store.holds(SHA256)
    async with api(redis_url, tmp_path / "other", location) as other:
        assert (await other.head(ADDRESS)).status_code == 404
        assert (await other.put(ADDRESS, content=CONTENT)).status_code == 200
    assert store.holds(SHA256)


async def test_a_store_that_fails_is_told(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    location = ArtifactLocation(str(tmp_path / "file" / "below"))
    async with api(redis_url, tmp_path / "data", location) as client:
        problem(await client.put(ADDRESS, content=CONTENT), 503, "artifacts_fail")
