"""Requests to show training examples of a job, and what workers answered."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence

from drmad_client.records.job import JobError
from drmad_client.records.side_runs.examples import ExampleGroups, ExampleView, ShownExamples
from drmad_service.store.layout import keys
from drmad_service.store.layout.ids import new_id
from drmad_service.store.side_runs.worker_requests import WorkerRequests

KIND = "examples"
KEPT_S = 3600
"""Expiry of what was shown; a worker shows it again."""


class TrainingExamples(WorkerRequests):
    """The examples that pages ask for, which schedulers have workers show."""

    async def shown_examples(self, job_id: str, rows: Sequence[int]) -> dict[int, ExampleView]:
        """Those of the rows that were shown lately."""
        if not rows:
            return {}
        found = await self._redis.hmget(keys.examples(job_id), [str(row) for row in rows])
        return {
            row: ExampleView.model_validate_json(raw)
            for row, raw in zip(rows, found, strict=True)
            if raw is not None
        }

    async def example_groups(self, job_id: str) -> dict[str, ExampleGroups] | None:
        """The class and columns of all training examples; None if no worker told them lately."""
        raw = await self._redis.hget(keys.examples(job_id), "groups")
        if raw is None:
            return None
        return {name: ExampleGroups.model_validate(each) for name, each in json.loads(raw).items()}

    async def request_examples(
        self, job_id: str, tenant: str, rows: Iterable[int], with_groups: bool = False
    ) -> str:
        """Ask the schedulers for examples. Returns the id of the request.

        Raises:
            TooManyWaiting: the tenant has as many requests waiting as it may.
        """
        request_id = new_id("examples")
        asked = {"job": job_id, "rows": list(rows), "groups": with_groups}
        await self.ask(KIND, request_id, tenant, json.dumps(asked))
        return request_id

    async def answer_examples(
        self, request_id: str, job_id: str, answer: ShownExamples | JobError
    ) -> None:
        error = ""
        if isinstance(answer, JobError):
            error = answer.model_dump_json()
        else:
            shown = {str(row): view.model_dump_json() for row, view in answer.views.items()}
            if answer.groups:
                shown["groups"] = json.dumps(
                    {name: each.model_dump() for name, each in answer.groups.items()}
                )
            if shown:
                pipe = self._redis.pipeline(transaction=True)
                pipe.hset(keys.examples(job_id), mapping=shown)
                pipe.expire(keys.examples(job_id), KEPT_S)
                await pipe.execute()
        await self.answer(KIND, request_id, error)

    async def examples_answered(
        self,
        request_id: str,
        timeout_s: float,
        is_connected: Callable[[], Awaitable[bool]] | None = None,
    ) -> JobError | None:
        """Wait for the answer; see `error_of`."""
        return await self.error_of(KIND, request_id, timeout_s, is_connected)
