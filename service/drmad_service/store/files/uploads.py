"""Uploads by digest: archives of user code, and the last use of uploaded data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from drmad_service.errors import ResultNotFound, TooManyUploads
from drmad_service.store.access.large_values import CHUNK_BYTES, COPY_S
from drmad_service.store.base import Base
from drmad_service.store.layout import keys
from drmad_service.store.layout.ids import new_id

UPLOAD_HELD_S = 60
"""How long an upload counts after its API process last said that it is under way, in seconds."""


class Uploads(Base):
    """Archives of user code in chunks; data sets are files, of which Redis keeps the last use."""

    async def begin_upload(self, tenant: str, most: int) -> str:
        """Count an upload that is under way; `keep_upload` and `end_upload` take its id.

        Raises:
            TooManyUploads: the tenant has so many under way, in all processes of the API.
        """
        upload, now, key = new_id("upload"), await self._now_ms(), keys.open_uploads(tenant)
        pipe = self._redis.pipeline(transaction=True)
        pipe.zremrangebyscore(key, "-inf", now)  # those of processes that have ended
        self._hold_upload(pipe, key, upload, now)
        pipe.zcard(key)
        if (await pipe.execute())[-1] > most:
            await self.end_upload(tenant, upload)
            raise TooManyUploads(tenant, most)
        return upload

    async def keep_upload(self, tenant: str, upload: str) -> None:
        """Count an upload for UPLOAD_HELD_S more seconds."""
        pipe = self._redis.pipeline(transaction=True)
        self._hold_upload(pipe, keys.open_uploads(tenant), upload, await self._now_ms())
        await pipe.execute()

    async def end_upload(self, tenant: str, upload: str) -> None:
        await self._redis.zrem(keys.open_uploads(tenant), upload)

    def _hold_upload(self, pipe: Any, key: str, upload: str, now_ms: int) -> None:
        pipe.zadd(key, {upload: now_ms + 1000 * UPLOAD_HELD_S})
        pipe.expire(key, UPLOAD_HELD_S)

    async def put_code(self, sha256: str, content: bytes, tenant: str = "local") -> bool:
        """Keep an archive under its digest. Returns whether it is new to the tenant."""
        await self.must_have_room()
        key = keys.code(sha256)
        if not await self._redis.exists(key):
            parts = range(0, len(content), CHUNK_BYTES)
            being_written = f"{key}:{new_id('part')}"
            for number, start in enumerate(parts):
                chunk = content[start : start + CHUNK_BYTES]
                await self._redis.hset(being_written, str(number), chunk)
                await self._redis.expire(being_written, COPY_S)
            done = self._redis.pipeline(transaction=True)
            done.persist(being_written)
            done.rename(being_written, key)
            await done.execute()
        await self._touch(keys.CODES, sha256)
        return bool(await self._redis.sadd(keys.code_tenants(sha256), tenant))

    async def has_code(self, name: str, tenant: str = "local") -> bool:
        """Whether this tenant uploaded sha256:<digits>; uploads of other tenants do not count."""
        sha256 = name.removeprefix("sha256:")
        return bool(await self._redis.sismember(keys.code_tenants(sha256), tenant))

    async def code(self, name: str) -> bytes:
        """The archive sha256:<digits>.

        Raises:
            ResultNotFound: it was never uploaded, is no longer kept, or was changed in Redis.
        """
        sha256 = name.removeprefix("sha256:")
        chunks = await self._redis.hgetall(keys.code(sha256))
        if not chunks:
            raise ResultNotFound(f"the code {name} is not kept; upload it again")
        await self._touch(keys.CODES, sha256)
        content = b"".join(chunks[number] for number in sorted(chunks, key=int))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ResultNotFound(f"the code {name} is damaged; upload it again")
        return content

    async def note_data(self, sha256: str, tenant: str = "local") -> bool:
        """Record the use of a data set. Returns whether it is new to the tenant."""
        await self._touch(keys.DATA, sha256)
        return bool(await self._redis.sadd(keys.data_tenants(sha256), tenant))

    async def has_data(self, name: str, tenant: str = "local") -> bool:
        """Whether this tenant uploaded the data set sha256:<digits>."""
        sha256 = name.removeprefix("sha256:")
        return bool(await self._redis.sismember(keys.data_tenants(sha256), tenant))

    async def delete_unused_code(self, milliseconds_ago: float) -> int:
        """Delete archives unused for longer that no job names. Returns how many."""
        unused = await self._unused(keys.CODES, milliseconds_ago)
        for sha256 in unused:
            await self._redis.unlink(keys.code(sha256), keys.code_tenants(sha256))
            await self._redis.zrem(keys.CODES, sha256)
        return len(unused)

    async def unused_data(self, milliseconds_ago: float) -> list[str]:
        """Forget data sets unused for longer that no job names. Returns their digests."""
        unused = await self._unused(keys.DATA, milliseconds_ago)
        if unused:
            await self._redis.zrem(keys.DATA, *unused)
            await self._redis.unlink(*map(keys.data_tenants, unused))
        return unused

    async def _unused(self, index: str, milliseconds_ago: float) -> list[str]:
        seconds, micros = await self._redis.time()
        horizon = seconds * 1000 + micros / 1000 - milliseconds_ago
        old = {raw.decode() for raw in await self._redis.zrangebyscore(index, "-inf", horizon)}
        if not old:
            return []
        pipe = self._redis.pipeline(transaction=False)
        for raw in await self._redis.zrange(keys.JOBS, 0, -1):
            pipe.hget(keys.job(raw.decode()), "spec")
        for spec in filter(None, await pipe.execute()):
            for sha256 in old & _uploads(json.loads(spec)["problem"]):
                old.remove(sha256)
                await self._touch(index, sha256)  # considered again once it is unused for that long
        return sorted(old)


def _uploads(problem: Mapping[str, Any]) -> set[str]:
    data = problem.get("data")
    data = data.get("data") if isinstance(data, dict) else data
    named = (problem.get("code"), data, problem.get("weights"))
    return {name.removeprefix("sha256:") for name in named if name}
