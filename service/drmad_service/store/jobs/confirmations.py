"""The confirmation of a job's result: what has been done of it, and its outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from drmad_client.records.job import Best
from drmad_client.records.side_runs.confirmation import Confirmation
from drmad_client.records.status import JobStatus
from drmad_service.errors import LeaseLost
from drmad_service.store.base import Base, described_model, model_chunks
from drmad_service.store.layout import keys
from drmad_service.store.layout.types import Lease
from drmad_workers.artifacts.job_artifacts import Kept


class Confirmations(Base):
    """Every write may be repeated under the same lease, and then changes nothing.

    Raises:
        LeaseLost: another scheduler drives the job.
    """

    async def confirmation_work(self, job_id: str) -> dict[str, Any] | None:
        """The plan and the draws of a confirmation; None when none has begun."""
        raw = await self._redis.hget(keys.job(job_id), "confirmation_work")
        return json.loads(raw) if raw else None

    async def keep_confirmation_work(
        self,
        lease: Lease,
        work: Mapping[str, Any],
        chosen: tuple[Best, Kept | None] | None = None,
    ) -> JobStatus:
        """Keep the plan and the draws so far.

        Args:
            chosen: the best meta-iteration and its model (safetensors), if the race chose another
                one; without a model the kept one goes, which belongs to the former best.
        Returns:
            The job's status, which shows an open control request.
        """
        fields = {"confirmation_work": json.dumps(work, allow_nan=False)}
        if chosen is None:
            return await self._confirm(lease, fields)
        best, model = chosen
        fields["best"] = best.model_dump_json()
        kept = await self._models(lease.job_id)
        left = {name: each for name, each in kept.items() if name != "best"}
        entry = ""
        if model is not None:
            chunks = await self._model_blobs.put(lease.job_id, lease.fence, model)
            left["best"] = described_model(best.iteration, model, chunks)
            entry = json.dumps(left["best"])
        garbage = sorted(model_chunks(kept) - model_chunks(left))
        status = await self._confirm(lease, fields, {"best": entry}, garbage)
        await self._model_blobs.drop(lease.job_id, garbage)
        return status

    async def keep_confirmation(
        self, lease: Lease, confirmation: Confirmation, best: Best | None = None
    ) -> JobStatus:
        """Keep the outcome, with the figures of the best meta-iteration; the work is done."""
        fields = {"confirmation": confirmation.model_dump_json(), "confirmation_work": ""}
        if best is not None:
            fields["best"] = best.model_dump_json()
        return await self._confirm(lease, fields)

    async def _confirm(
        self,
        lease: Lease,
        fields: Mapping[str, str],
        models: Mapping[str, str] = {},
        garbage: list[str] | None = None,
    ) -> JobStatus:
        outcome, status = await self._scripts.run(
            "confirm",
            lease.job_id,
            lease.fence,
            json.dumps(dict(fields)),
            json.dumps(dict(models)),
            json.dumps(garbage or []),
        )
        if outcome != "ok":
            raise LeaseLost(f"confirmation of {lease.job_id} refused: {outcome}")
        return JobStatus(status)
