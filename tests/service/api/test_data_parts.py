"""Uploads in parts: they go on where they broke, and are checked, bounded and swept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis
from starlette.requests import ClientDisconnect

from drmad_client.files.array_file import load, pack
from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.files.partial_upload import PartialUpload, WrongOffset, bytes_in_parts
from tests.service.api.test_api import problem

pytestmark = pytest.mark.anyio

CONTENT = pack({"inputs": np.eye(40, dtype=np.float32), "targets": np.arange(40)})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ADDRESS = f"/v1/data/{SHA256}"
PARTS = f"{ADDRESS}/parts"
LIMIT = 100_000


@pytest.fixture
async def api(redis: Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ApiSettings(redis_url, data_dir=tmp_path, max_data_bytes=LIMIT))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client


def part(offset: int, end: int | None = None, length: int = len(CONTENT)) -> dict[str, object]:
    params = {"offset": offset, "length": length}
    return {"url": PARTS, "params": params, "content": CONTENT[offset:end]}


async def test_a_file_in_parts_is_kept_once_the_last_has_arrived(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    assert (await api.get(PARTS)).json() == {"offset": 0, "is_complete": False}
    first = await api.patch(**part(0, 1000))  # type: ignore[arg-type]
    assert (first.status_code, first.json()) == (202, {"offset": 1000, "is_complete": False})
    assert (await api.head(ADDRESS)).status_code == 404
    assert (await api.get(PARTS)).json()["offset"] == 1000
    last = await api.patch(**part(1000))  # type: ignore[arg-type]
    assert (last.status_code, last.json()["is_complete"]) == (201, True)
    assert (await api.get(PARTS)).json() == {"offset": len(CONTENT), "is_complete": True}
    assert (await api.head(ADDRESS)).status_code == 204
    assert os.listdir(tmp_path) == [SHA256]
    assert load(tmp_path / SHA256)["targets"].tolist() == list(range(40))


async def test_a_part_elsewhere_than_the_upload_stands_is_refused_and_changes_nothing(
    api: httpx.AsyncClient,
) -> None:
    await api.patch(**part(0, 1000))  # type: ignore[arg-type]
    for offset in (0, 999, 1001, 10**12):
        details = problem(await api.patch(**part(offset)), 409, "upload_offset")  # type: ignore[arg-type]
        assert f"stands at byte 1000, got a part from byte {offset}" in details.detail
        assert "GET this address" in details.detail
    assert (await api.patch(**part(1000))).status_code == 201  # type: ignore[arg-type]


async def test_what_differs_from_its_digest_is_removed(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    wrong = bytes(len(CONTENT))
    params = {"offset": 0, "length": len(CONTENT)}
    details = problem(await api.patch(PARTS, params=params, content=wrong), 422, "invalid_fields")
    assert "the upload is removed, begin again at byte 0" in details.errors[0].message
    more = await api.patch(PARTS, params=params, content=CONTENT + b"more")
    details = problem(more, 422, "invalid_fields")
    assert f"must have {len(CONTENT)} bytes together, got more" in details.errors[0].message
    text = b"not an array at all"
    address = f"/v1/data/{hashlib.sha256(text).hexdigest()}/parts"
    params = {"offset": 0, "length": len(text)}
    details = problem(await api.patch(address, params=params, content=text), 422, "invalid_fields")
    assert "npz or safetensors" in details.errors[0].message
    assert (await api.delete(PARTS)).status_code == 204
    assert os.listdir(tmp_path) == []


async def test_a_file_above_the_bound_is_refused_at_its_first_part(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    details = problem(await api.patch(**part(0, 10, LIMIT + 1)), 413, "body_too_large")  # type: ignore[arg-type]
    assert f"at most {LIMIT} bytes, got {LIMIT + 1}" in details.detail
    for params in ({"offset": 0}, {"length": 5}, {"offset": -1, "length": 5}):
        problem(await api.patch(PARTS, params=params, content=b"x"), 422, "invalid_fields")
    assert os.listdir(tmp_path) == []


async def test_of_a_part_that_breaks_off_the_beginning_is_kept(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield CONTENT[:500]
        raise ClientDisconnect

    async def rest() -> AsyncIterator[bytes]:
        yield CONTENT[500:]

    upload = PartialUpload(tmp_path, SHA256, "local")
    with pytest.raises(ClientDisconnect):
        await upload.append(0, len(CONTENT), broken())
    assert upload.offset == 500
    assert await upload.append(500, len(CONTENT), rest()) == len(CONTENT)
    assert (await upload.finish()).read_bytes() == CONTENT


async def test_two_parts_at_once_do_not_mix(tmp_path: Path) -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield CONTENT[:500]
        has_begun.set()
        await may_end.wait()

    upload = PartialUpload(tmp_path, SHA256, "local")
    first = asyncio.create_task(upload.append(0, len(CONTENT), slow()))
    await has_begun.wait()
    with pytest.raises(WrongOffset, match="another request sends a part"):
        await upload.append(0, len(CONTENT), slow())
    may_end.set()
    assert await first == 500


async def test_an_upload_that_was_given_up_is_swept_and_counts_for_its_tenant(
    tmp_path: Path,
) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield CONTENT[:500]

    mine, others = (PartialUpload(tmp_path, SHA256, tenant) for tenant in ("mine", "others"))
    for upload in (mine, others):
        await upload.append(0, len(CONTENT), content())
    assert bytes_in_parts(tmp_path, "mine") == 500
    old = time.time() - 25 * 3600
    os.utime(mine.path, (old, old))
    DataFolder(tmp_path).remove_abandoned()
    assert os.listdir(tmp_path) == [others.path.name]
    assert mine.offset == 0


async def test_a_tenant_whose_quota_its_parts_fill_is_refused(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    settings = ApiSettings(redis_url, data_dir=tmp_path, tenant_bytes=1000)
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as api,
    ):
        assert (await api.patch(**part(0, 1200))).status_code == 202  # type: ignore[arg-type]
        (tmp_path / ("a" * 64)).touch()
        problem(await api.patch(**part(1200)), 507, "tenant_full")  # type: ignore[arg-type]
