"""Large values of a job: cut into chunks named by their content, and thinned when they grow."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

from redis.asyncio import Redis

from drmad_service import keys
from drmad_service.errors import ResultNotFound

CHUNK_BYTES = 1 << 20
"""A larger value in one command would keep the other clients waiting."""


class Blobs:
    """The chunks of jobs. Whoever puts a blob writes its names into what mentions it."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def put(self, job_id: str, blob: bytes) -> list[str]:
        """Names of the chunks. Putting the same bytes again changes nothing."""
        key, names = keys.job(job_id, "chunks"), []
        view = memoryview(blob)
        for start in range(0, len(blob), CHUNK_BYTES):
            chunk = view[start : start + CHUNK_BYTES]
            names.append(hashlib.sha256(chunk).hexdigest())
            await self._redis.hset(key, names[-1], bytes(chunk))
        return names

    async def get(self, job_id: str, names: Sequence[str]) -> bytes:
        """
        Raises:
            ResultNotFound: a chunk is gone.
        """
        key = keys.job(job_id, "chunks")
        parts = [await self._redis.hget(key, name) for name in names]
        if any(part is None for part in parts):
            raise ResultNotFound(f"a part of this result of job {job_id} is no longer kept")
        return b"".join(parts)

    async def copy(self, source: str, target: str, names: Sequence[str]) -> None:
        for name in names:
            chunk = await self._redis.hget(keys.job(source, "chunks"), name)
            if chunk is None:
                raise ResultNotFound(f"a part of this result of job {source} is no longer kept")
            await self._redis.hset(keys.job(target, "chunks"), name, chunk)


def thinned(sizes: dict[int, int], budget: int, protected: Collection[int]) -> list[int]:
    """Which iterations to let go so that the sizes of the others fit the budget.

    What stays is spaced by its age, dense where it is young: each time the one goes whose
    neighbours are closest, measured by the age of the later one. The first and the last stay.

    Args:
        sizes: bytes by iteration.
        budget: of the sum of those that stay, in bytes.
        protected: iterations that stay in any case.
    """
    kept = sorted(sizes)
    total, gone = sum(sizes.values()), []
    while total > budget:
        candidates = [
            (
                (kept[place + 1] - kept[place - 1]) / (kept[-1] - kept[place] + 1),
                place,
            )
            for place in range(1, len(kept) - 1)
            if kept[place] not in protected
        ]
        if not candidates:
            break
        place = min(candidates)[1]
        total -= sizes[kept[place]]
        gone.append(kept.pop(place))
    return gone
