"""The common part of the store: read a job, run a transition, run an update."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from drmad_client.records.job import JobRecord
from drmad_client.records.status import JobStatus
from drmad_service.errors import (
    ActionRefused,
    JobNotFound,
    LeaseLost,
    ResultNotFound,
    SchemaDiffers,
    StoreFull,
)
from drmad_service.store.access.large_values import Blobs
from drmad_service.store.access.scripts import Scripts
from drmad_service.store.layout import decoding, keys
from drmad_service.store.layout.schema import SCHEMA
from drmad_service.store.layout.state_machine import TRANSITIONS, Action
from drmad_service.store.layout.turn import Turn
from drmad_service.store.layout.types import Lease, ResumePoint, StoreSettings
from drmad_service.store.tenant_limits import OwnLimits
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import Kept
from drmad_workers.artifacts.store import ArtifactStore

FULL = 0.8
"""Fraction of the memory budget above which the store accepts no new job or upload."""
LOG_LINES = 10_000
"""Number of last log lines kept of each job, approximately."""

_LINES_AT_ONCE = 1_000  # Redis serves nobody else meanwhile

MOST_TURNS = 50
"""Queued jobs whose records name the job directly ahead; beyond, they have the number of those."""


class Base:
    """The connection, the scripts and the large values that every part of the store uses."""

    def __init__(
        self,
        redis: Redis,
        settings: StoreSettings = StoreSettings(),
        most_queued: int = 0,
        artifacts: ArtifactStore | None = None,
    ) -> None:
        """
        Args:
            most_queued: bounds the queued and paused jobs of a tenant; 0 sets no bound.
            artifacts: has what is too large for Redis; None in a process that reads none of it.
        """
        # redis-py types its answers as bytes, str or None; this client returns bytes.
        self._redis: Any = redis
        self._settings = settings
        self._most_queued = most_queued
        self.own_limits = OwnLimits(redis)
        self._scripts = Scripts(
            redis,
            events_kept=settings.events_kept,
            share_ms=1000 * settings.share_s,
            unplaced_ms=1000 * settings.unplaced_s,
            longest_unplaced_ms=1000 * settings.longest_unplaced_s,
        )
        self._artifacts = artifacts
        self._blobs = Blobs(redis, self._scripts, "chunks", artifacts)
        self._model_blobs = Blobs(redis, self._scripts, "model_chunks", artifacts)
        self._checkpoint_blobs = Blobs(redis, self._scripts, "checkpoint_chunks", artifacts)
        self._retrained_blobs = Blobs(redis, self._scripts, "retrained_chunks", artifacts)

    async def ping(self) -> None:
        await self._redis.ping()

    async def get(self, job_id: str) -> JobRecord:
        pipe = self._redis.pipeline(transaction=False)
        pipe.hgetall(keys.job(job_id))
        pipe.lrange(keys.job(job_id, "transitions"), 0, -1)
        fields, transitions = await pipe.execute()
        if not fields:
            raise JobNotFound(job_id)
        past = [decoding.transition(transition) for transition in transitions]
        if fields[b"status"] != b"queued":
            return decoding.job(job_id, fields, past)
        cluster = await self.cluster()
        turns = await self._turns(cluster, [job_id])
        return decoding.job(job_id, fields, past, cluster, turns[job_id])

    async def cluster(self) -> decoding.ClusterCapacity:
        """The capacity of the cluster, and the part of it that is reserved."""
        pipe = self._redis.pipeline(transaction=False)
        self._ask_cluster(pipe)
        return self._cluster_of(await pipe.execute())

    async def _turns(
        self, cluster: decoding.ClusterCapacity, queued: Sequence[str]
    ) -> dict[str, Turn]:
        """Which jobs are ahead of these, by id."""
        if not queued:
            return {}
        capacity = cluster.capacity.described()
        try:
            answers = await self._scripts.run("turns", capacity, MOST_TURNS, *queued)
        except SchemaDiffers:  # while another version migrates the layout, jobs are read
            return dict.fromkeys(queued, Turn())
        return dict(zip(queued, map(Turn.of, answers), strict=True))

    def _ask_cluster(self, pipe: Any) -> None:
        """Append the commands whose answers `_cluster_of` reads to a pipeline."""
        pipe.hgetall(keys.CLUSTER)
        pipe.hgetall(keys.RESERVATIONS)
        pipe.hvals(keys.PLACES)
        pipe.time()

    def _cluster_of(self, answers: Sequence[Any]) -> decoding.ClusterCapacity:
        announced, reservations, places, (seconds, micros) = answers
        silent_ms = 1000 * self._settings.scheduler_silent_s
        now_ms = seconds * 1000 + micros / 1000
        return decoding.ClusterCapacity(announced, reservations, places, now_ms, silent_ms)

    async def must_have_room(self) -> None:
        """
        Raises:
            StoreFull: more than FULL of the memory budget is used.
        """
        memory = await self._redis.info("memory")
        budget, used = memory["maxmemory"], memory["used_memory"]
        if budget and used > FULL * budget:
            raise StoreFull(used, budget)

    async def must_accept_writes(self) -> None:
        """
        Raises:
            RedisError: Redis is away, or refuses writes; store/access/refusals.py says why.
        """
        await self._scripts.run("probe")

    async def must_agree(self) -> None:
        """
        Raises:
            SchemaDiffers: Redis holds data of another schema version.
        """
        found = await self._redis.get(keys.SCHEMA)
        if found is not None and found.decode() != str(SCHEMA):
            raise SchemaDiffers(found.decode(), SCHEMA)

    async def _must_exist(self, job_id: str) -> None:
        if not await self._redis.exists(keys.job(job_id)):
            raise JobNotFound(job_id)

    async def _kept(self, job_id: str, iteration: int) -> dict[str, Any]:
        """Chunk names of a meta-iteration's state and hypergradient, and the state's scalars."""
        await self._must_exist(job_id)
        raw = await self._redis.hget(keys.job(job_id, "vectors"), str(iteration))
        if raw is None:
            raise ResultNotFound(
                f"job {job_id} keeps no vectors of index {iteration}; choose one whose "
                "has_vectors is true in the history"
            )
        kept: dict[str, Any] = json.loads(raw)
        return kept

    async def state_of(self, job_id: str, iteration: int) -> ResumePoint:
        """The state with which a meta-iteration trained.

        Raises:
            ResultNotFound: it is not kept.
        """
        kept = await self._kept(job_id, iteration)
        tensors = await self._blobs.kept(job_id, kept["state"])
        return ResumePoint(iteration, tensors, kept["scalars"])

    async def _touch(self, index: str, sha256: str) -> None:
        """Record in an index of uploads that this one is used now."""
        await self._redis.zadd(index, {sha256: await self._now_ms()})

    async def _now_ms(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def _act(
        self,
        job_id: str,
        action: Action,
        reason: str,
        message: str,
        fields: Mapping[str, str] = {},
        fence: str = "",
        state: str = "",
        seen: str = "",
        by: str = "",
    ) -> JobStatus:
        outcome, status = await self._scripts.run(
            "transition",
            job_id,
            fence,
            states(action),
            reason,
            message,
            json.dumps(dict(fields)),
            state,
            seen,
            by,
        )
        if fence and outcome in ("fenced", "unknown"):
            raise LeaseLost(f"{action} of {job_id} refused: {outcome}")
        if outcome == "unknown":
            raise JobNotFound(job_id)
        if outcome == "refused":
            raise ActionRefused(job_id, action, status)
        return JobStatus(status)

    async def _update(
        self,
        lease: Lease,
        fields: Mapping[str, str],
        event: str = "",
        data: str = "",
        state: str = "",
        garbage: Sequence[str] = (),
    ) -> JobStatus:
        outcome, status = await self._scripts.run(
            "update",
            lease.job_id,
            lease.fence,
            json.dumps(dict(fields)),
            event,
            data,
            state,
            json.dumps(list(garbage)),
        )
        if outcome != "ok":
            raise LeaseLost(f"update of {lease.job_id} refused: {outcome}")
        return JobStatus(status)

    async def _append_lines(
        self, script: str, holder: Sequence[str], replica: int, source: str, lines: Sequence[str]
    ) -> str:
        """Append log lines by the script of a holder; the last LOG_LINES lines of a job are kept.

        Returns "ok", or the reason of a refusal.
        """
        for first in range(0, len(lines), _LINES_AT_ONCE):
            part = lines[first : first + _LINES_AT_ONCE]
            encoded = [line.encode("utf-8", "backslashreplace") for line in part]
            named = (LOG_LINES, replica, source)
            outcome: str = await self._scripts.run(script, *holder, *named, *encoded)
            if outcome != "ok":
                return outcome
        return "ok"

    async def _models(self, job_id: str) -> dict[str, Any]:
        entries = await self._redis.hgetall(keys.job(job_id, "models"))
        return {name.decode(): json.loads(value) for name, value in entries.items()}

    async def _state(self, job_id: str) -> dict[str, Any]:
        raw = await self._redis.get(keys.job(job_id, "state"))
        state: dict[str, Any] = (
            json.loads(raw) if raw else {"chunks": [], "scalars": {}, "bytes": 0}
        )
        return state


def states(action: Action) -> str:
    return json.dumps(TRANSITIONS[action])


def described_model(iteration: int, model: Kept, chunks: Sequence[str]) -> dict[str, Any]:
    """The entry of a models hash."""
    if isinstance(model, Artifact):
        size, sha256 = model.size, model.sha256
    else:
        size, sha256 = len(model), hashlib.sha256(model).hexdigest()
    return {"iteration": iteration, "chunks": chunks, "bytes": size, "sha256": sha256}


def model_chunks(models: Mapping[str, Any]) -> set[str]:
    """The chunks that the entries of a models hash name."""
    return {chunk for model in models.values() for chunk in model["chunks"]}
