"""Notices of the start and the end of jobs, for the addresses that their specs name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from drmad_service.store.base import Base

Event = Literal["start", "end"]
Channel = Literal["webhook", "slack", "email"]


@dataclass(frozen=True)
class Notice:
    """A notice that a scheduler holds while sending it."""

    job_id: str
    attempt: int
    """Number of the attempt, from 1."""
    event: Event = "end"
    channel: Channel = "webhook"


class Notices(Base):
    """Notices, which the script that changes a job's state creates."""

    async def next_notice(self, hold_s: float) -> Notice | None:
        """Take a notice that is due; other schedulers skip it for `hold_s` seconds."""
        taken = await self._scripts.run("take_notice", int(hold_s * 1000))
        return Notice(taken[0], int(taken[1]), *taken[2:]) if taken else None

    async def postpone(self, notice: Notice, wait_s: float) -> None:
        """Make the notice due again after `wait_s` seconds."""
        await self._settle(notice, "", int(wait_s * 1000))

    async def settle(self, notice: Notice, outcome: Mapping[str, Any]) -> None:
        """Remove the notice, and record its outcome as an event."""
        await self._settle(notice, json.dumps(dict(outcome)), 0)

    async def _settle(self, notice: Notice, outcome: str, wait_ms: int) -> None:
        of = (notice.job_id, notice.attempt, notice.event, notice.channel)
        await self._scripts.run("settle_notice", *of, outcome, wait_ms)
