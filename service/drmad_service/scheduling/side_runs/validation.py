"""Validations of hypergradients, run on workers beside the jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drmad_client.records.side_runs.validation import ValidationReport
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.scheduling.side_runs.driver import SideRunDriver


class ValidationRun(SideRunDriver):
    """One held validation."""

    async def _start(self) -> None:
        job = await self._store.get(self._held.job_id)
        asked = (await self._store.validation(self._held.job_id, self._held.id)).asked
        point = await self._store.validated_state(self._held)
        await self._start_workers("Validator", job.begun, asked.model_dump_json(), point)

    async def _computed(self) -> Mapping[str, Any]:
        """Differentiate on one worker, retrain on all of them, and judge."""
        first = self._workers[0]
        counted, known = first.differentiate.remote()
        self._total = await self._answer(future_of(counted))
        await self._run_all(lambda worker, n: future_of(worker.retrain.remote(known, n)))
        losses = [self._done[number] for number in range(self._total)]
        judge = self._workers[0]
        found = await self._answer(future_of(judge.outcome.remote(known, losses)))
        return {"report": ValidationReport.model_validate(found).model_dump(mode="json")}
