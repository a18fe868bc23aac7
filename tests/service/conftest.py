"""A store over an empty Redis, the API over it, and a job to play with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.access.connection import connect


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect(redis_url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
async def api(redis: Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The real application, called without a socket in between."""
    app = create_app(ApiSettings(redis_url, data_dir=tmp_path / "data", max_body_bytes=50_000))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client


@pytest.fixture
def body() -> dict[str, Any]:
    return {
        "name": "digits",
        "problem": {"data": {"name": "digits", "label_noise": 0.5}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"steps": 20, "batch_size": 10},
        "meta": {"iterations": 3},
    }


@pytest.fixture
def spec(body: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(body)
