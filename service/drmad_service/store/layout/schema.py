"""The schema version of Redis. Older data is migrated once, under a lock; newer data is refused.

Every script of the store compares the version (lua/prelude.lua). A process that was built for
another version therefore writes nothing once a migration has begun, and reports the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from drmad_service.cancellation import cancel_and_wait
from drmad_service.errors import SchemaDiffers
from drmad_service.store.layout import keys
from drmad_service.store.layout.ids import new_id
from drmad_service.store.migrations import initial_weights, standard_terms, tenant_indices
from drmad_service.store.migrations.rewriting import JobRewriting

logger = logging.getLogger(__name__)

Migration = Callable[[Redis], Awaitable[None]]

LOCK_MS = 30_000
"""Expiry of the lock: after it another process repeats the migration of a process that died."""
_POLL_S = 0.2

# The version is only raised: a process that was frozen in a migration cannot lower it.
_RAISE = """
local now, to = redis.call('GET', KEYS[1]) or ARGV[1], ARGV[2]
local function number(version) return tonumber(string.match(version, '^%d+')) end
if redis.call('GET', KEYS[2]) ~= ARGV[3] then return 0 end
if number(to) >= number(now) then redis.call('SET', KEYS[1], to) end
return 1
"""


MIGRATIONS: tuple[Migration, ...] = (
    tenant_indices.migrate,
    standard_terms.migrate,
    initial_weights.migrate,
)
"""The migration from each version to the next. Running one twice has no further effect.

Data of version 1 carries no version.
"""
SCHEMA = len(MIGRATIONS) + 1
REWRITINGS: dict[int, JobRewriting] = {2: standard_terms.REWRITING, 3: initial_weights.REWRITING}
"""How a migration from a version rewrites a job; the others change only indices."""


async def agree(redis: Redis, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Migrate Redis to this version, or wait for the process that does.

    Raises:
        SchemaDiffers: Redis holds data of a newer version.
    """
    known = len(migrations) + 1
    while True:
        found, is_settled = await version(redis, known)
        if found > known:
            raise SchemaDiffers(str(found), known)
        if found == known and is_settled:
            return
        async with _lock(redis) as token:
            if token is None:
                await asyncio.sleep(_POLL_S)
                continue
            await _migrate(redis, migrations, token)


async def version(redis: Any, fresh: int = SCHEMA) -> tuple[int, bool]:
    """The version of Redis, and whether no migration is running. An empty Redis gets `fresh`."""
    raw = await redis.get(keys.SCHEMA)
    if raw is None and not await redis.exists(keys.JOBS):
        await redis.set(keys.SCHEMA, fresh, nx=True)
        raw = await redis.get(keys.SCHEMA)
    before, _, after = (raw or b"1").decode().partition("-")
    return int(before), not after


async def _migrate(redis: Any, migrations: Sequence[Migration], token: str) -> None:
    known = len(migrations) + 1
    raise_to = redis.register_script(_RAISE)
    held = [keys.SCHEMA, keys.SCHEMA_LOCK]
    for number in range((await version(redis, known))[0], known):
        logger.info("migrates Redis from schema %d to %d", number, number + 1)
        if not await raise_to(keys=held, args=["1", f"{number}-{number + 1}", token]):
            return  # the lock was lost; its new holder continues
        await migrations[number - 1](redis)
        if not await raise_to(keys=held, args=["1", str(number + 1), token]):
            return
        logger.info("Redis is at schema %d", number + 1)


@contextlib.asynccontextmanager
async def _lock(redis: Any) -> AsyncIterator[str | None]:
    """The token of the lock, which is renewed meanwhile; None when another process holds it."""
    token = new_id("migration")
    if not await redis.set(keys.SCHEMA_LOCK, token, nx=True, px=LOCK_MS):
        yield None
        return

    async def keep() -> None:
        while True:
            await asyncio.sleep(LOCK_MS / 3000)
            await redis.set(keys.SCHEMA_LOCK, token, xx=True, px=LOCK_MS)

    keeping = asyncio.create_task(keep())
    try:
        yield token
    finally:
        await cancel_and_wait([keeping])
        if await redis.get(keys.SCHEMA_LOCK) == token.encode():
            await redis.delete(keys.SCHEMA_LOCK)
