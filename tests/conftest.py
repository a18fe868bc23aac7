"""What every test may use: a real Redis, and which event loop async tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drmad_service.embedded import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a socket, one for the whole run; whoever uses it empties it first."""
    redis = EmbeddedRedis(Path(tmp_path_factory.mktemp("redis")))
    redis.start()
    yield redis.url
    redis.stop()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
