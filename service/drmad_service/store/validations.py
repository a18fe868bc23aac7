"""Validations of the hypergradients of jobs: requested by clients, run by schedulers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from drmad_client.records.job import JobError
from drmad_client.records.validation import Validation, ValidationReport
from drmad_client.spec.validation import ValidationSpec
from drmad_service.errors import JobNotFound, ResultNotFound, ValidationRefused
from drmad_service.store import keys
from drmad_service.store.base import Base
from drmad_service.store.ids import new_id
from drmad_service.store.placement import Capacity, Placed, placed
from drmad_service.store.types import ResumePoint

Ended = Literal["cancelled", "succeeded", "failed"]

KEPT = 10
"""Validations that are kept of a job; the oldest is dropped first."""


@dataclass(frozen=True)
class HeldValidation:
    """A validation that a scheduler runs, as long as no other one has taken it.

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


class Validations(Base):
    """Validations, at most one of a job that is not finished."""

    async def request_validation(
        self, job_id: str, iteration: int, asked: ValidationSpec
    ) -> Validation:
        """Request a validation at the hyperparameters of a committed meta-iteration.

        Raises:
            ResultNotFound: the state of the meta-iteration is not kept.
            ValidationRefused: another validation of the job is not finished.
        """
        await self._kept(job_id, iteration)
        resources = (await self.get(job_id)).spec.resources
        validation_id = new_id("validation")
        record = {
            "iteration": iteration,
            "asked": asked.model_dump(),
            "requested_at": datetime.now(UTC).isoformat(),
        }
        outcome = await self._scripts.run(
            "request_validation",
            job_id,
            validation_id,
            json.dumps(record),
            f"{resources.cpus} {resources.gpus}",
            KEPT,
        )
        if outcome == "unknown":
            raise JobNotFound(job_id)
        if outcome != "ok":
            raise ValidationRefused(
                f"job {job_id} has a validation that is not finished ({outcome.partition(' ')[2]}):"
                " wait for it, or cancel it"
            )
        return await self.validation(job_id, validation_id)

    async def validations(self, job_id: str) -> list[Validation]:
        """The validations of a job, the newest first."""
        await self._must_exist(job_id)
        found = await self._redis.hgetall(keys.job(job_id, "validations"))
        fields = {name.decode(): value.decode() for name, value in found.items()}
        ids = sorted((name for name in fields if ":" not in name), reverse=True)
        return [await self._read(job_id, each, fields) for each in ids]

    async def validation(self, job_id: str, validation_id: str) -> Validation:
        """
        Raises:
            ResultNotFound: the job has no such validation, or no longer.
        """
        for found in await self.validations(job_id):
            if found.id == validation_id:
                return found
        raise ResultNotFound(f"job {job_id} has no validation {validation_id}")

    async def cancel_validation(self, job_id: str, validation_id: str) -> Validation:
        """
        Raises:
            ResultNotFound: as `validation`.
            ValidationRefused: it is finished.
        """
        outcome, status = await self._scripts.run("cancel_validation", job_id, validation_id)
        if outcome == "refused":
            raise ValidationRefused(f"cannot cancel {validation_id}: it is {status}")
        return await self.validation(job_id, validation_id)

    async def next_validation(
        self, hold_s: float, capacity: Capacity, most_workers: int
    ) -> HeldValidation | None:
        """Take a validation that fits beside the jobs, and reserve its workers; None without one.

        Jobs come first: while one waits that could run, no validation starts.
        """
        taken = await self._scripts.run(
            "take_validation",
            int(hold_s * 1000),
            capacity.described(),
            most_workers,
        )
        if not taken:
            return None
        job_id, validation_id, token, entries = taken
        return HeldValidation(job_id, validation_id, token, tuple(placed(entries)))

    async def validated_state(self, held: HeldValidation) -> ResumePoint:
        """The state that is validated: that with which its meta-iteration trained."""
        iteration = (await self.validation(held.job_id, held.id)).iteration
        kept = await self._kept(held.job_id, iteration)
        tensors = await self._blobs.get(held.job_id, kept["state"])
        return ResumePoint(iteration, tensors, kept["scalars"])

    async def keep_validation(
        self, held: HeldValidation, done: int, total: int, hold_s: float
    ) -> str:
        """Record the progress, and hold the validation for `hold_s` more seconds; 0 releases it.

        Returns its status; "lost" when it is no longer this scheduler's, or its job was deleted.
        """
        return await self._keep(held, done, total, hold_s, "", "")

    async def finish_validation(
        self,
        held: HeldValidation,
        done: int,
        total: int,
        outcome: ValidationReport | JobError | None,
    ) -> None:
        """Record the report, or why there is none; None stands for a cancelled validation."""
        status: Ended = "cancelled"
        what: dict[str, Any] = {"finished_at": datetime.now(UTC).isoformat()}
        if isinstance(outcome, ValidationReport):
            status, what["report"] = "succeeded", outcome.model_dump(mode="json")
        elif outcome is not None:
            status, what["error"] = "failed", outcome.model_dump(mode="json")
        await self._keep(held, done, total, 0.0, status, json.dumps(what))

    async def _keep(
        self,
        held: HeldValidation,
        done: int,
        total: int,
        hold_s: float,
        ended: Ended | Literal[""],
        outcome: str,
    ) -> str:
        progress = json.dumps({"done": done, "total": total, "workers": held.workers})
        status: str = await self._scripts.run(
            "keep_validation",
            held.job_id,
            held.id,
            held.token,
            int(hold_s * 1000),
            progress,
            ended,
            outcome,
        )
        return status

    async def _read(self, job_id: str, validation_id: str, fields: dict[str, str]) -> Validation:
        described: dict[str, Any] = json.loads(fields[validation_id])
        for part in ("progress", "outcome"):
            described |= json.loads(fields.get(f"{validation_id}:{part}", "{}"))
        status = fields[f"{validation_id}:status"]
        if status in ("queued", "running", "cancelling"):
            member = f"{job_id} {validation_id}"
            if await self._redis.zscore(keys.VALIDATIONS, member) is None:
                # A backup has the record, and not the place in the queue.
                message = "the service was restored from a backup meanwhile: validate again"
                status = "failed"
                described["error"] = {"code": "interrupted", "message": message}
        named = {"id": validation_id, "job_id": job_id, "status": status}
        return Validation.model_validate(named | described)
