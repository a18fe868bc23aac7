"""How every process connects to Redis."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

TIMEOUT_S = 5.0


def connect(url: str) -> Redis:
    """A client for `url` that returns bytes.

    It never repeats a command by itself: when only the reply was lost, a repeated write counts
    twice. Whoever may repeat does so knowingly.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=100,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=TIMEOUT_S,
        health_check_interval=30,
    )
    return Redis.from_pool(pool)
