"""Trials of a job's search, and the start that the search found."""

from __future__ import annotations

import json
from typing import Any

from drmad_client.records.job import Progress
from drmad_client.records.pages import Page
from drmad_client.records.search import Start, Trial
from drmad_service.errors import LeaseLost
from drmad_service.store.base import Base
from drmad_service.store.layout import decoding, keys
from drmad_service.store.layout.types import Lease


class Trials(Base):
    """Trials, keyed by their number."""

    async def trials(self, job_id: str, after: int | None = None, limit: int = 100) -> Page[Trial]:
        """The trials after number `after`, in ascending order."""
        await self._must_exist(job_id)
        entries = await self._redis.hgetall(keys.job(job_id, "trials"))
        numbers = sorted(int(number) for number in entries)
        wanted = [number for number in numbers if after is None or number > after]
        page = [decoding.trial(entries[str(number).encode()]) for number in wanted[:limit]]
        has_more = len(wanted) > limit
        return Page(data=page, has_more=has_more, next=str(page[-1].number) if has_more else None)

    async def add_trial(self, lease: Lease, record: dict[str, Any], progress: Progress) -> None:
        """Record a trial (a Trial without its time). The first record of a number stays.

        Raises:
            LeaseLost: another scheduler drives the job.
        """
        outcome, _ = await self._scripts.run(
            "trial",
            lease.job_id,
            lease.fence,
            record["number"],
            json.dumps(record, allow_nan=False),
            json.dumps({"progress": progress.model_dump_json()}),
        )
        if outcome != "ok":
            raise LeaseLost(f"trial {record['number']} of {lease.job_id} refused: {outcome}")

    async def start_from(self, lease: Lease, start: Start) -> None:
        """Keep the start that the search found."""
        found = start.model_dump_json()
        await self._update(lease, {"start": found}, "start", found)
