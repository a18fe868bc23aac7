"""Large values of a job: cut into chunks named by their content, and thinned when they grow."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

from redis.asyncio import Redis

from drmad_service.errors import LeaseLost, ResultNotFound
from drmad_service.store import keys
from drmad_service.store.scripts import Scripts

CHUNK_BYTES = 1 << 20
"""A larger value in one command would keep the other clients waiting."""
COPY_S = 600
"""What was copied for a job that is then not created is gone after so long."""


class Blobs:
    """The chunks of jobs, in one part of theirs. Who puts a blob has its names kept somewhere."""

    def __init__(self, redis: Redis, scripts: Scripts, part: str) -> None:
        self._redis: Any = redis
        self._scripts = scripts
        self._part = part

    async def put(self, job_id: str, fence: str, blob: bytes) -> list[str]:
        """Names of the chunks. Putting the same bytes again changes nothing.

        Raises:
            LeaseLost: the job belongs to another scheduler.
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

    async def get(self, job_id: str, names: Sequence[str]) -> bytes:
        """
        Raises:
            ResultNotFound: a chunk is gone.
        """
        key = keys.job(job_id, self._part)
        parts = [await self._redis.hget(key, name) for name in names]
        if any(part is None for part in parts):
            raise ResultNotFound(f"a part of this result of job {job_id} is no longer kept")
        return b"".join(parts)

    async def copy(self, source: str, target: str, names: Sequence[str]) -> None:
        """For a job that does not exist yet: creating it makes the copy last.

        Raises:
            ResultNotFound: a chunk is gone.
        """
        copied = keys.job(target, self._part)
        for name in names:
            chunk = await self._redis.hget(keys.job(source, self._part), name)
            if chunk is None:
                raise ResultNotFound(f"a part of this result of job {source} is no longer kept")
            await self._redis.hset(copied, name, chunk)
            await self._redis.expire(copied, COPY_S)


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
