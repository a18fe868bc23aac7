"""Requests for a preflight of a job that is not created, and their answers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from drmad_client.records.job import JobError, PreflightReport
from drmad_client.spec.job import JobSpec
from drmad_service.store.layout.ids import new_id
from drmad_service.store.side_runs.worker_requests import WorkerRequests

KIND = "preflights"


class Preflights(WorkerRequests):
    """Preflight requests of tenants."""

    async def request_preflight(self, spec: JobSpec, tenant: str) -> str:
        """Request a preflight from the schedulers. Returns the id of the request.

        Raises:
            TooManyWaiting: the tenant has as many requests waiting as it may.
        """
        preflight_id = new_id("preflight")
        await self.ask(KIND, preflight_id, tenant, spec.model_dump_json())
        return preflight_id

    async def withdraw_preflight(self, preflight_id: str) -> None:
        """Withdraw a request whose client no longer waits."""
        await self.withdraw(KIND, preflight_id)

    async def answer_preflight(self, preflight_id: str, answer: PreflightReport | JobError) -> None:
        kind = "report" if isinstance(answer, PreflightReport) else "error"
        await self.answer(KIND, preflight_id, json.dumps({kind: answer.model_dump(mode="json")}))

    async def preflight_answer(
        self,
        preflight_id: str,
        timeout_s: float,
        is_connected: Callable[[], Awaitable[bool]] | None = None,
    ) -> PreflightReport | JobError | None:
        """Wait for the answer; None when there is none in time, or the client is gone."""
        raw = await self.answer_to(KIND, preflight_id, timeout_s, is_connected)
        if raw is None:
            return None
        answer = json.loads(raw)
        if "report" in answer:
            return PreflightReport.model_validate(answer["report"])
        return JobError.model_validate(answer["error"])
