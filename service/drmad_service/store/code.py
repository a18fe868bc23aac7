"""The code that users upload, in parts, under the digest of its bytes."""

from __future__ import annotations

import json

from drmad_service import keys
from drmad_service.blobs import CHUNK_BYTES, COPY_S
from drmad_service.errors import ResultNotFound
from drmad_service.ids import new_id
from drmad_service.store.base import Base


class Code(Base):
    """Archives of user code."""

    async def put_code(self, sha256: str, content: bytes, tenant: str = "local") -> bool:
        """Keep an archive under the digest of its bytes. Returns whether the tenant had it not."""
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
        await self._touch_code(sha256)
        return bool(await self._redis.sadd(keys.code_tenants(sha256), tenant))

    async def has_code(self, name: str, tenant: str = "local") -> bool:
        """Whether the tenant uploaded sha256:<digits>; that another did opens nothing."""
        sha256 = name.removeprefix("sha256:")
        return bool(await self._redis.sismember(keys.code_tenants(sha256), tenant))

    async def code(self, name: str) -> bytes:
        """
        Raises:
            ResultNotFound: it was never uploaded, or is no longer kept.
        """
        sha256 = name.removeprefix("sha256:")
        chunks = await self._redis.hgetall(keys.code(sha256))
        if not chunks:
            raise ResultNotFound(f"the code {name} is not here; upload it again")
        await self._touch_code(sha256)
        return b"".join(chunks[number] for number in sorted(chunks, key=int))

    async def delete_unused_code(self, milliseconds_ago: float) -> int:
        """Delete code that nobody asked for so long and that no job names. Returns how much."""
        seconds, micros = await self._redis.time()
        horizon = seconds * 1000 + micros / 1000 - milliseconds_ago
        old = {raw.decode() for raw in await self._redis.zrangebyscore(keys.CODES, "-inf", horizon)}
        if not old:
            return 0
        pipe = self._redis.pipeline(transaction=False)
        for raw in await self._redis.zrange(keys.JOBS, 0, -1):
            pipe.hget(keys.job(raw.decode()), "spec")
        for spec in filter(None, await pipe.execute()):
            code = json.loads(spec)["problem"].get("code") or ""
            if (sha256 := code.removeprefix("sha256:")) in old:
                old.remove(sha256)
                await self._touch_code(sha256)  # looked at again when it is old again
        for sha256 in old:
            await self._redis.unlink(keys.code(sha256), keys.code_tenants(sha256))
            await self._redis.zrem(keys.CODES, sha256)
        return len(old)
