"""Large values of a job: split into chunks named by their digest, dropped to fit a budget."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

from redis.asyncio import Redis

from drmad_service.errors import LeaseLost, ResultNotFound
from drmad_service.store.access.scripts import Scripts
from drmad_service.store.layout import keys

CHUNK_BYTES = 1 << 20
"""Size of a chunk. A larger value in one command would delay the other clients of Redis."""
COPY_S = 600
"""Expiry of a copy whose job is then not created, in seconds."""


class Blobs:
    """Large values in one part of each job. The caller of `put` stores the chunk names."""

    def __init__(self, redis: Redis, scripts: Scripts, part: str) -> None:
        self._redis: Any = redis
        self._scripts = scripts
        self._part = part

    async def put(self, job_id: str, fence: str, blob: bytes) -> list[str]:
        """Write a value in chunks. Returns their names; the same bytes again change nothing.

        Raises:
            LeaseLost: another scheduler drives the job.
        """
        names: list[str] = []
        view = memoryview(blob)
        for start in range(0, len(blob), CHUNK_BYTES):
            chunk = bytes(view[start : start + CHUNK_BYTES])
            names.append(hashlib.sha256(chunk).hexdigest())
            outcome = await self._scripts.run("put", job_id, fence, self._part, names[-1], chunk)
            if outcome != "ok":
                raise LeaseLost(f"a large value of {job_id} refused: {outcome}")
        return names

    async def get(self, job_id: str, names: Sequence[str], checked: bool = False) -> bytes:
        """
        Args:
            checked: compares every chunk with its digest.
        Raises:
            ResultNotFound: a chunk is no longer kept, or damaged.
        """
        key = keys.job(job_id, self._part)
        parts = [await self._redis.hget(key, name) for name in names]
        if any(part is None for part in parts):
            raise ResultNotFound(f"a part of this result of job {job_id} is no longer kept")
        if checked and [hashlib.sha256(part).hexdigest() for part in parts] != list(names):
            raise ResultNotFound(f"a part of this result of job {job_id} is damaged")
        return b"".join(parts)

    async def copy(self, source: str, target: str, names: Sequence[str]) -> None:
        """Copy chunks to a job that does not exist yet; its creation removes their expiry.

        Raises:
            ResultNotFound: a chunk is no longer kept.
        """
        copied = keys.job(target, self._part)
        for name in names:
            chunk = await self._redis.hget(keys.job(source, self._part), name)
            if chunk is None:
                raise ResultNotFound(f"a part of this result of job {source} is no longer kept")
            await self._redis.hset(copied, name, chunk)
            await self._redis.expire(copied, COPY_S)


def iterations_to_drop(sizes: dict[int, int], budget: int, protected: Collection[int]) -> list[int]:
    """The iterations to drop so that the sizes of the others fit the budget.

    The kept iterations are spaced in proportion to their age, densely among the recent ones: each
    round drops the iteration whose neighbours are closest, relative to the age of the later
    neighbour. The first and the last iteration are always kept.

    Args:
        sizes: bytes by iteration.
        budget: bound of the sum of the kept sizes, in bytes.
        protected: iterations that are never dropped.
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
