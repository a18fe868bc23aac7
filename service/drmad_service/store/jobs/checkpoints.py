"""Checkpoints of an online job: the state of its training runs before a window."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drmad_service.errors import ResultNotFound
from drmad_service.store.access.large_values import COPY_S, iterations_to_drop
from drmad_service.store.base import Base
from drmad_service.store.layout import keys
from drmad_service.store.layout.types import Lease, ResumePoint
from drmad_workers.artifacts.job_artifacts import kept_bytes

LEAST = 2
"""Checkpoints that are kept whatever their size: where one is damaged, a job goes on from the one
before."""


@dataclass(frozen=True)
class CheckpointChange:
    """What a commit writes of a checkpoint, and which older ones it drops."""

    kept: Mapping[str, str]
    """New entries of the hash."""
    dropped: Sequence[int] = ()
    garbage: Sequence[str] = ()
    """Chunks that become unreferenced."""


class Checkpoints(Base):
    """Reads and prepares the checkpoints of jobs; a commit writes them."""

    async def checkpoints(self, job_id: str) -> list[int]:
        """The meta-iterations before which a checkpoint is kept, in order."""
        return sorted(await self._checkpoints(job_id))

    async def checkpoint(self, job_id: str, iteration: int) -> list[ResumePoint]:
        """The training state of each replica before a meta-iteration.

        Raises:
            ResultNotFound: the checkpoint is not kept, or a part of it is damaged.
        """
        kept = (await self._checkpoints(job_id)).get(iteration)
        if kept is None:
            raise ResultNotFound(f"job {job_id} keeps no checkpoint before window {iteration + 1}")
        states = []
        for replica in kept["replicas"]:
            tensors = await self._checkpoint_blobs.kept(job_id, replica["chunks"])
            states.append(ResumePoint(iteration, tensors, replica["scalars"]))
        return states

    async def points(self, job_id: str, iterations: Sequence[int]) -> list[ResumePoint]:
        """The states before these meta-iterations.

        Raises:
            ResultNotFound: one of them is not kept.
        """
        found = []
        for iteration in iterations:
            kept = await self._kept(job_id, iteration)
            tensors = await self._blobs.kept(job_id, kept["state"])
            found.append(ResumePoint(iteration, tensors, kept["scalars"]))
        return found

    async def _copy_training(self, source: str, target: str, begin: int, iteration: int) -> int:
        """Copy what the training state before a meta-iteration is restored from to a new job.

        Args:
            target: a job that does not exist yet; its creation removes the expiry of the copies.
            begin: the first meta-iteration of the training run.
        Returns:
            The bytes of the copied states and hypergradients.
        Raises:
            ResultNotFound: the states since the last checkpoint are not kept.
        """
        kept = await self._checkpoints(source)
        usable = {each: kept[each] for each in kept if begin < each <= iteration}
        newest = sorted(usable)[-LEAST:]
        await self.points(source, range(newest[-1] if newest else begin, iteration))
        for number in newest:
            for replica in usable[number]["replicas"]:
                await self._checkpoint_blobs.copy(source, target, replica["chunks"])
            await self._copy_entry(target, "checkpoints", number, usable[number])
        entries = await self._all_vectors(source)
        first, copied = (newest[0] if newest else begin), 0
        for number, vectors in sorted(entries.items()):
            if first <= number < iteration:
                await self._blobs.copy(source, target, vectors["state"] + vectors["hypergradient"])
                await self._copy_entry(target, "vectors", number, vectors)
                copied += vectors["bytes"]
        return copied

    async def _copy_entry(self, job_id: str, part: str, number: int, entry: Any) -> None:
        key = keys.job(job_id, part)
        await self._redis.hset(key, str(number), json.dumps(entry))
        await self._redis.expire(key, COPY_S)

    async def _all_vectors(self, job_id: str) -> dict[int, dict[str, Any]]:
        entries = await self._redis.hgetall(keys.job(job_id, "vectors"))
        return {int(number): json.loads(value) for number, value in entries.items()}

    async def _put_checkpoint(
        self, lease: Lease, states: Sequence[ResumePoint]
    ) -> CheckpointChange:
        """Write the chunks of a checkpoint; without states there is no change."""
        if not states:
            return CheckpointChange({})
        replicas = [
            {
                "chunks": await self._checkpoint_blobs.put(lease.job_id, lease.fence, each.tensors),
                "scalars": each.scalars,
            }
            for each in states
        ]
        number = states[0].iteration
        entry = {"replicas": replicas, "bytes": sum(kept_bytes(each.tensors) for each in states)}
        kept = await self._checkpoints(lease.job_id) | {number: entry}
        sizes = {iteration: each["bytes"] for iteration, each in kept.items()}
        newest = set(sorted(kept)[-LEAST:])
        gone = iterations_to_drop(sizes, self._settings.checkpoint_bytes, newest)
        left = [each for iteration, each in kept.items() if iteration not in gone]
        dropped = _chunks([kept[iteration] for iteration in gone])
        return CheckpointChange(
            {str(number): json.dumps(entry)}, gone, sorted(dropped - _chunks(left))
        )

    async def _checkpoints(self, job_id: str) -> dict[int, dict[str, Any]]:
        entries = await self._redis.hgetall(keys.job(job_id, "checkpoints"))
        return {int(number): json.loads(value) for number, value in entries.items()}

    async def _replayed(self, job_id: str) -> int | None:
        """The first meta-iteration whose state the last checkpoints need to be trained from."""
        numbers = await self.checkpoints(job_id)
        return numbers[-LEAST:][0] if numbers else None


def _chunks(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    return {chunk for each in entries for part in each["replicas"] for chunk in part["chunks"]}
