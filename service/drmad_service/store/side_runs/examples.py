"""Requests to show training examples of a job, and what workers answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence

from drmad_client.records.job import JobError
from drmad_client.records.side_runs.examples import ExampleGroups, ExampleView, ShownExamples
from drmad_service.store.base import Base
from drmad_service.store.layout import keys
from drmad_service.store.layout.ids import new_id

KEPT_S = 3600
"""Expiry of what was shown; a worker shows it again."""
_ASKED_S = 300
_POLL_S = 0.1


class TrainingExamples(Base):
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
        self, job_id: str, rows: Iterable[int], with_groups: bool = False
    ) -> str:
        """Ask the schedulers for examples. Returns the id of the request."""
        request_id = new_id("examples")
        asked = {"job": job_id, "rows": list(rows), "groups": with_groups}
        pipe = self._redis.pipeline(transaction=True)
        pipe.set(keys.example_request(request_id), json.dumps(asked), ex=_ASKED_S)
        pipe.rpush(keys.EXAMPLES, request_id)
        await pipe.execute()
        return request_id

    async def next_examples(self) -> tuple[str, str, list[int], bool] | None:
        """Take the oldest request: its id, the job, the rows, and whether it asks for groups."""
        while (raw := await self._redis.lpop(keys.EXAMPLES)) is not None:
            asked = await self._redis.get(keys.example_request(raw.decode()))
            if asked is not None:
                fields = json.loads(asked)
                return raw.decode(), fields["job"], fields["rows"], fields["groups"]
        return None

    async def answer_examples(
        self, request_id: str, job_id: str, answer: ShownExamples | JobError
    ) -> None:
        pipe = self._redis.pipeline(transaction=True)
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
                pipe.hset(keys.examples(job_id), mapping=shown)
                pipe.expire(keys.examples(job_id), KEPT_S)
        pipe.set(keys.example_request(request_id, "answer"), error, ex=_ASKED_S)
        await pipe.execute()

    async def examples_answered(self, request_id: str, timeout_s: float) -> JobError | None:
        """Wait for the answer, and return its error if it has one.

        Raises:
            TimeoutError: no worker answered in time.
        """
        async with asyncio.timeout(timeout_s):
            while (
                raw := await self._redis.get(keys.example_request(request_id, "answer"))
            ) is None:
                await asyncio.sleep(_POLL_S)
        return JobError.model_validate_json(raw) if raw else None
