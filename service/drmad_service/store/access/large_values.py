"""Large values of a job: split into chunks named by their digest, dropped to fit a budget.

A value that is too large for Redis is an artifact, which a worker wrote; it has one name.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from redis.asyncio import Redis

from drmad_service.errors import ArtifactsFail, LeaseLost, ResultNotFound
from drmad_service.store.access.scripts import Scripts
from drmad_service.store.layout import keys
from drmad_workers.artifacts.artifact import (
    Artifact,
    ArtifactDamaged,
    ArtifactError,
    ArtifactLost,
    ArtifactStoreFails,
)
from drmad_workers.artifacts.job_artifacts import Kept
from drmad_workers.artifacts.store import (
    MODELS,
    RETRAINED,
    TRAINING,
    VECTORS,
    ArtifactStore,
    Reader,
    job_folder,
)

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
"""Size of a chunk. A larger value in one command would delay the other clients of Redis."""
COPY_S = 600
"""Expiry of a copy whose job is then not created, in seconds."""


IN_REDIS_BYTES = 64 << 20
"""Bounds what has no place in the artifact store."""
PIECE_BYTES = 1 << 16
"""Size of the pieces in which an artifact is read: a hundred downloads hold a hundred of them."""
FOLDERS = {
    "chunks": VECTORS,
    "model_chunks": MODELS,
    "checkpoint_chunks": TRAINING,
    "retrained_chunks": RETRAINED,
}
"""What of the artifact store belongs to a part of a job in Redis."""


class Blobs:
    """Large values in one part of each job. The caller of `put` stores the names of the chunks."""

    def __init__(
        self, redis: Redis, scripts: Scripts, part: str, artifacts: ArtifactStore | None
    ) -> None:
        self._redis: Any = redis
        self._scripts = scripts
        self._part = part
        self._artifacts = artifacts

    async def put(self, job_id: str, fence: str, blob: Kept) -> list[str]:
        """Write a value in chunks. Returns their names; the same bytes again change nothing.

        Raises:
            LeaseLost: another scheduler drives the job.
        """
        if isinstance(blob, Artifact):
            return [blob.name]
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
        if (artifact := artifact_of(names)) is not None:
            with _translated(job_id):
                store, key = self._place(job_id, artifact)
                return await asyncio.to_thread(store.read, key, artifact)
        key = keys.job(job_id, self._part)
        parts = [await self._redis.hget(key, name) for name in names]
        if any(part is None for part in parts):
            raise ResultNotFound(f"a part of this result of job {job_id} is no longer kept")
        if checked and [hashlib.sha256(part).hexdigest() for part in parts] != list(names):
            raise ResultNotFound(f"a part of this result of job {job_id} is damaged")
        return b"".join(parts)

    async def kept(self, job_id: str, names: Sequence[str]) -> Kept:
        """The value, or the artifact that is the value, whose digest is compared in pieces.

        Raises:
            ResultNotFound: it is no longer kept, or damaged.
        """
        if (artifact := artifact_of(names)) is None:
            return await self.get(job_id, names, checked=True)
        with _translated(job_id):
            store, key = self._place(job_id, artifact)
            await asyncio.to_thread(store.verify, key, artifact)
        return artifact

    async def pieces(
        self, job_id: str, names: Sequence[str], start: int, end: int
    ) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `end`, of which one piece at a time is in memory.

        Raises:
            ResultNotFound: the value is no longer kept; also before the first piece.
        """
        artifact = artifact_of(names)
        if artifact is None:
            first = start // CHUNK_BYTES
            for number in range(first, -(-end // CHUNK_BYTES)):
                offset = number * CHUNK_BYTES
                chunk = await self.get(job_id, [names[number]])
                yield chunk[max(0, start - offset) : end - offset]
            return
        with ExitStack() as opened, _translated(job_id):
            store, key = self._place(job_id, artifact)
            reader: Reader = await asyncio.to_thread(opened.enter_context, store.reader(key))
            if reader.size != artifact.size:
                raise ArtifactDamaged(f"{key} has {reader.size} of {artifact.size} bytes")
            while start < end:
                piece = await asyncio.to_thread(reader.read, start, min(PIECE_BYTES, end - start))
                yield piece
                start += len(piece)

    async def drop(self, job_id: str, names: Iterable[str]) -> None:
        """Remove artifacts that nothing names any more; what fails is left to the next sweep."""
        gone = [artifact for name in names if (artifact := Artifact.named(name))]
        if gone and self._artifacts is not None:
            found = [self._place(job_id, artifact)[1] for artifact in gone]
            try:
                await asyncio.to_thread(self._artifacts.remove, found)
            except ArtifactError as error:
                logger.warning("leaves an artifact: %s", error, extra={"job_id": job_id})

    async def copy(self, source: str, target: str, names: Sequence[str]) -> None:
        """Copy chunks and artifacts to a job that does not exist yet, whose creation keeps them.

        Raises:
            ResultNotFound: a chunk is no longer kept.
        """
        copied = keys.job(target, self._part)
        for name in names:
            if (artifact := Artifact.named(name)) is not None:
                with _translated(source):
                    store, key = self._place(source, artifact)
                    await asyncio.to_thread(store.copy, key, self._place(target, artifact)[1])
                continue
            chunk = await self._redis.hget(keys.job(source, self._part), name)
            if chunk is None:
                raise ResultNotFound(f"a part of this result of job {source} is no longer kept")
            await self._redis.hset(copied, name, chunk)
            await self._redis.expire(copied, COPY_S)

    def _place(self, job_id: str, artifact: Artifact) -> tuple[ArtifactStore, str]:
        """The store, and the key of an artifact.

        Raises:
            ArtifactStoreFails: this process knows no store.
        """
        if self._artifacts is None:
            raise ArtifactStoreFails("this process has no artifact store: set DRMAD_ARTIFACTS_URL")
        return self._artifacts, f"{job_folder(job_id, FOLDERS[self._part])}/{artifact.sha256}"


def artifact_of(names: Sequence[str]) -> Artifact | None:
    """The artifact that is the value with these names; None if it is in Redis."""
    return Artifact.named(names[0]) if len(names) == 1 else None


@contextmanager
def _translated(job_id: str) -> Iterator[None]:
    """The errors of the artifact store, as those of this package."""
    try:
        yield
    except (ArtifactLost, ArtifactDamaged) as error:
        message = f"a part of this result of job {job_id} is no longer kept: {error}"
        raise ResultNotFound(message) from error
    except ArtifactError as error:
        raise ArtifactsFail(str(error)) from error


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
