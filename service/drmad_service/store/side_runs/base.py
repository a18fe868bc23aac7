"""Runs beside jobs, such as validations: requested by clients, taken and held by schedulers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from drmad_client.records.job import JobError
from drmad_client.records.side_runs.side_run import SideRun
from drmad_service.errors import (
    JobNotFound,
    ResultNotFound,
    RetrainingRefused,
    RunLost,
    ValidationRefused,
)
from drmad_service.store.access.large_values import CHUNK_BYTES
from drmad_service.store.base import Base
from drmad_service.store.jobs.placement import Capacity, Placed, placed
from drmad_service.store.layout import keys
from drmad_service.store.layout.ids import new_id
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import Kept

Ended = Literal["cancelled", "succeeded", "failed"]
R = TypeVar("R", bound=SideRun)

_REFUSALS = {"validation": ValidationRefused, "retraining": RetrainingRefused}

KEPT = 10
"""Runs of a kind that are kept of a job; the oldest is dropped first."""


@dataclass(frozen=True)
class HeldRun:
    """A run that a scheduler holds, as long as no other one has taken it.

    Attributes:
        token: the fencing token.
        places: the nodes of the workers whose resources are reserved.
    """

    job_id: str
    id: str
    token: str
    places: tuple[Placed, ...]

    @property
    def workers(self) -> int:
        """The number of workers."""
        return sum(place.replicas for place in self.places)

    @property
    def kind(self) -> str:
        return self.id.partition("_")[0]


class SideRuns(Base):
    """Runs beside jobs; of each kind, at most one of a job is not finished.

    An id is "<kind>_<ulid>", and the hash "<kind>s" of the job has its runs.
    """

    async def next_run(
        self, hold_s: float, capacity: Capacity, most_workers: int
    ) -> HeldRun | None:
        """Take a run that fits beside the jobs, and reserve its workers; None without one.

        Jobs come first: while one waits that could run, no run beside them starts.
        """
        taken = await self._scripts.run(
            "take_run",
            int(hold_s * 1000),
            capacity.described(),
            most_workers,
        )
        if not taken:
            return None
        job_id, run_id, token, entries = taken
        return HeldRun(job_id, run_id, token, tuple(placed(entries)))

    async def keep_run(
        self,
        held: HeldRun,
        done: int,
        total: int,
        hold_s: float,
        finished: Mapping[int, Any] | None = None,
    ) -> str:
        """Record the progress, and hold the run for `hold_s` more seconds; 0 releases it.

        Args:
            finished: the results of its training runs by their numbers, which the next scheduler
                finds; None keeps those that are there.
        Returns its status; "lost" when it is no longer this scheduler's, or its job was deleted.
        """
        results = "" if finished is None else json.dumps(finished)
        return await self._keep(held, done, total, hold_s, "", "", results)

    async def finished_parts(self, held: HeldRun) -> dict[int, Any]:
        """The results of the training runs that an earlier scheduler finished, by number."""
        key = keys.job(held.job_id, f"{held.kind}s")
        kept = await self._redis.hget(key, f"{held.id}:finished")
        return {int(number): each for number, each in json.loads(kept or "{}").items()}

    async def finish_run(
        self,
        held: HeldRun,
        done: int,
        total: int,
        outcome: Mapping[str, Any] | JobError | None,
    ) -> None:
        """Record the fields of the outcome, or why there is none; None if it was cancelled."""
        status: Ended = "cancelled"
        what: dict[str, Any] = {"finished_at": datetime.now(UTC).isoformat()}
        if isinstance(outcome, JobError):
            status, what["error"] = "failed", outcome.model_dump(mode="json")
        elif outcome is not None:
            status = "succeeded"
            what |= outcome
        await self._keep(held, done, total, 0.0, status, json.dumps(what))

    async def log_of_run(self, held: HeldRun, source: str, lines: Sequence[str]) -> None:
        """Append lines of a worker to the log of the job.

        Raises:
            RunLost: the run is no longer this scheduler's.
        """
        holder = (held.job_id, held.id, held.token)
        outcome = await self._append_lines("log_of_run", holder, 0, source, lines)
        if outcome != "ok":
            raise RunLost(f"lines of {held.id} are refused: {outcome}")

    async def put_of_run(self, held: HeldRun, blob: Kept) -> list[str]:
        """Write a model in chunks. Returns their names, which `finish_run` is to record.

        Raises:
            RunLost: the run is no longer this scheduler's.
        """
        if isinstance(blob, Artifact):
            return [blob.name]
        names: list[str] = []
        for start in range(0, len(blob), CHUNK_BYTES):
            chunk = blob[start : start + CHUNK_BYTES]
            names.append(hashlib.sha256(chunk).hexdigest())
            outcome = await self._scripts.run(
                "put_of_run", held.job_id, held.id, held.token, names[-1], chunk
            )
            if outcome != "ok":
                raise RunLost(f"the model of {held.id} is refused: {outcome}")
        return names

    async def _request(
        self, kind: str, job_id: str, record: Mapping[str, Any], most_workers: int | None = None
    ) -> str:
        """Request a run with the workers of the job's own resources; returns its id.

        `most_workers` bounds them beside the bound of every run.

        Raises:
            RunRefused: another run of the kind is not finished.
        """
        resources = (await self.get(job_id)).spec.resources
        run_id = new_id(kind)
        outcome = await self._scripts.run(
            "request_run",
            job_id,
            run_id,
            json.dumps({**record, "requested_at": datetime.now(UTC).isoformat()}),
            f"{resources.cpus} {resources.gpus} {most_workers or ''}",
            KEPT,
        )
        if outcome == "unknown":
            raise JobNotFound(job_id)
        if outcome != "ok":
            raise _REFUSALS[kind](
                f"job {job_id} has a {kind} that is not finished ({outcome.partition(' ')[2]}): "
                "wait for it, or cancel it",
            )
        return run_id

    async def _all(self, kind: str, job_id: str, record: type[R]) -> list[R]:
        """The runs of a kind, the newest first."""
        await self._must_exist(job_id)
        found = await self._redis.hgetall(keys.job(job_id, f"{kind}s"))
        fields = {name.decode(): value.decode() for name, value in found.items()}
        ids = sorted((name for name in fields if ":" not in name), reverse=True)
        return [await self._read(job_id, each, fields, record) for each in ids]

    async def _one(self, kind: str, job_id: str, run_id: str, record: type[R]) -> R:
        for found in await self._all(kind, job_id, record):
            if found.id == run_id:
                return found
        raise ResultNotFound(f"job {job_id} has no {kind} {run_id}")

    async def _cancel(self, kind: str, job_id: str, run_id: str) -> None:
        if run_id.partition("_")[0] != kind:
            raise ResultNotFound(f"job {job_id} has no {kind} {run_id}")
        outcome, status = await self._scripts.run("cancel_run", job_id, run_id)
        if outcome == "refused":
            raise _REFUSALS[kind](f"cannot cancel {run_id}: it is {status}")

    async def _keep(
        self,
        held: HeldRun,
        done: int,
        total: int,
        hold_s: float,
        ended: Ended | Literal[""],
        outcome: str,
        finished: str = "",
    ) -> str:
        progress = json.dumps({"done": done, "total": total, "workers": held.workers})
        status: str = await self._scripts.run(
            "keep_run",
            held.job_id,
            held.id,
            held.token,
            int(hold_s * 1000),
            progress,
            ended,
            outcome,
            finished,
        )
        return status

    async def _read(
        self, job_id: str, run_id: str, fields: Mapping[str, str], record: type[R]
    ) -> R:
        described: dict[str, Any] = json.loads(fields[run_id])
        for part in ("progress", "outcome"):
            described |= json.loads(fields.get(f"{run_id}:{part}", "{}"))
        for of_the_job in ("model", "headline"):
            described.pop(of_the_job, None)
        status = fields[f"{run_id}:status"]
        is_open = status in ("queued", "running", "cancelling")
        if is_open and await self._redis.zscore(keys.RUNS, f"{job_id} {run_id}") is None:
            # A backup has the record, and not the place in the queue.
            message = "the service was restored from a backup meanwhile: request it again"
            status = "failed"
            described["error"] = {"code": "interrupted", "message": message}
        named = {"id": run_id, "job_id": job_id, "status": status}
        return record.model_validate(named | described)
