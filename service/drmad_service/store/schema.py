"""The version of the layout in Redis: one older is brought up once, under a lock; others refuse.

Every script of the store compares the version (lua/prelude.lua), so a process that was built for
another one writes nothing from the moment at which a migration begins, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from drmad_service.cancellation import cancel_and_wait
from drmad_service.errors import SchemaDiffers
from drmad_service.store import keys
from drmad_service.store.ids import new_id

logger = logging.getLogger(__name__)

Migration = Callable[[Redis], Awaitable[None]]

LOCK_MS = 30_000
"""After so long another process goes on with a migration whose process died."""
_POLL_S = 0.2

# Raised only: a process that was frozen in the middle cannot set it back.
_RAISE = """
local now, to = redis.call('GET', KEYS[1]) or ARGV[1], ARGV[2]
local function number(version) return tonumber(string.match(version, '^%d+')) end
if redis.call('GET', KEYS[2]) ~= ARGV[3] then return 0 end
if number(to) >= number(now) then redis.call('SET', KEYS[1], to) end
return 1
"""


async def index_tenants(redis: Any) -> None:
    """1 to 2: every tenant has indices of its own, and owns the code that its jobs name."""
    for raw in await redis.zrange(keys.JOBS, 0, -1):
        job_id = raw.decode()
        fields = await redis.hmget(keys.job(job_id), ["tenant", "status", "spec"])
        if None in fields:  # deleted meanwhile
            continue
        tenant, status, spec = (field.decode() for field in fields)
        await redis.zadd(keys.jobs_with(tenant=tenant), {job_id: 0})
        await redis.zadd(keys.jobs_with(status, tenant), {job_id: 0})
        code = json.loads(spec)["problem"].get("code") or ""
        if await redis.exists(keys.code(code.removeprefix("sha256:"))):
            await redis.sadd(keys.code_tenants(code.removeprefix("sha256:")), tenant)


MIGRATIONS: tuple[Migration, ...] = (index_tenants,)
"""From each version to the next; 1 came without a version. Running one twice changes nothing."""
SCHEMA = len(MIGRATIONS) + 1


async def agree(redis: Redis, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring what is in Redis to this version, or wait for who does.

    Raises:
        SchemaDiffers: it is of a newer version.
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
    """What Redis holds, and whether no migration is on its way; an empty one becomes `fresh`."""
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
            return  # the lock was lost; whoever has it goes on
        await migrations[number - 1](redis)
        if not await raise_to(keys=held, args=["1", str(number + 1), token]):
            return
        logger.info("Redis is at schema %d", number + 1)


@contextlib.asynccontextmanager
async def _lock(redis: Any) -> AsyncIterator[str | None]:
    """A token while the lock is ours, kept alive; None where another process has it."""
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
