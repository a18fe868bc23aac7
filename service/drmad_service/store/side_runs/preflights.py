"""Requests for a preflight of a job that is not created, and their answers."""

from __future__ import annotations

import asyncio
import json

from drmad_client.records.job import JobError, PreflightReport
from drmad_client.spec.job import JobSpec
from drmad_service.store.base import Base
from drmad_service.store.layout import keys
from drmad_service.store.layout.ids import new_id

KEPT_S = 600
"""Expiry of requests and answers, in seconds."""
_POLL_S = 0.1


class Preflights(Base):
    """Preflight requests, answered in the order of their arrival."""

    async def request_preflight(self, spec: JobSpec) -> str:
        """Request a preflight from the schedulers. Returns the id of the request."""
        preflight_id = new_id("preflight")
        pipe = self._redis.pipeline(transaction=True)
        pipe.set(keys.preflight(preflight_id), spec.model_dump_json(), ex=KEPT_S)
        pipe.rpush(keys.PREFLIGHTS, preflight_id)
        await pipe.execute()
        return preflight_id

    async def withdraw_preflight(self, preflight_id: str) -> None:
        """Withdraw a request whose client no longer waits."""
        await self._redis.delete(keys.preflight(preflight_id))

    async def next_preflight(self) -> tuple[str, JobSpec] | None:
        """Take the oldest request that is not withdrawn or expired."""
        while (raw := await self._redis.lpop(keys.PREFLIGHTS)) is not None:
            spec = await self._redis.get(keys.preflight(raw.decode()))
            if spec is not None:
                return raw.decode(), JobSpec.model_validate_json(spec)
        return None

    async def answer_preflight(self, preflight_id: str, answer: PreflightReport | JobError) -> None:
        kind = "report" if isinstance(answer, PreflightReport) else "error"
        text = json.dumps({kind: answer.model_dump(mode="json")})
        await self._redis.set(keys.preflight(preflight_id, "answer"), text, ex=KEPT_S)

    async def preflight_answer(
        self, preflight_id: str, timeout_s: float
    ) -> PreflightReport | JobError | None:
        """Wait for the answer; None when there is none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while (
                    raw := await self._redis.get(keys.preflight(preflight_id, "answer"))
                ) is None:
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return None
        answer = json.loads(raw)
        if "report" in answer:
            return PreflightReport.model_validate(answer["report"])
        return JobError.model_validate(answer["error"])
