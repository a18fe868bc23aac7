"""How the operator's commands reach Redis: by its URL, or through the home of `drmad up`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from drmad_service.errors import ServiceStartError
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.store.access.connection import connect

_T = TypeVar("_T")


def url_in_file() -> str:
    """The URL in the file that DRMAD_REDIS_URL_FILE names; empty without such a file.

    Raises:
        ServiceStartError: the file cannot be read.
    """
    file = os.environ.get("DRMAD_REDIS_URL_FILE")
    if not file:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceStartError(f"cannot read the URL of Redis from {file}: {error}") from error


def home_redis_url(home: Path) -> str:
    """The URL of the Redis that `drmad up` runs in this home; empty if none runs."""
    home = home.expanduser().resolve()
    if not (home / "redis").is_dir():
        return ""
    redis = EmbeddedRedis(home)
    return redis.url if redis.is_running() else ""


def with_redis(redis_url: str, home: Path, use: Callable[[Redis], Awaitable[_T]]) -> _T:
    """Runs `use` with a connection to `redis_url`, or to the home's Redis if the URL is empty.

    Raises:
        ServiceStartError: no Redis runs in the home, or Redis does not answer.
    """
    url = redis_url or url_in_file() or home_redis_url(home)
    if not url:
        raise ServiceStartError(
            f"no Redis runs in {home}; start it with `drmad up`, or pass --redis-url"
        )

    async def main() -> _T:
        async with connect(url) as redis:
            return await use(redis)

    try:
        return asyncio.run(main())
    except RedisError as error:
        raise ServiceStartError(f"Redis does not answer: {error}") from error
