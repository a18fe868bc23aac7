"""The connection of a process to Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


class _TracedConnection(Redis):
    """Reports the duration of each command, from the call to the answer, in seconds."""

    observe: Callable[[float], None]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        answer: Callable[..., Any] = super().execute_command
        try:
            return await answer(*args, **options)
        finally:
            self.observe(time.perf_counter() - began)


def connect(
    url: str, observe: Callable[[float], None] | None = None, timeout_s: float = 5.0
) -> Redis:
    """A client for `url` that returns bytes; connecting times out after `timeout_s` seconds.

    The client never repeats a command: when only the answer was lost, a repeated write would
    execute twice. Callers repeat idempotent requests themselves.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=100,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout_s,
        health_check_interval=30,
    )
    if observe is None:
        return Redis.from_pool(pool)
    client = cast("_TracedConnection", _TracedConnection.from_pool(pool))
    client.observe = observe
    return client
