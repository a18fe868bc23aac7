"""Notices of ended jobs, for the webhooks that their specs name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drmad_service.store.base import Base


@dataclass(frozen=True)
class Notice:
    """A notice that was taken to be sent."""

    job_id: str
    attempt: int
    """From 1."""


class Notices(Base):
    """Put there by the script that ends a job."""

    async def next_notice(self, hold_s: float) -> Notice | None:
        """Take one that is due; nobody else gets it for so long."""
        taken = await self._scripts.run("take_notice", int(hold_s * 1000))
        return Notice(taken[0], int(taken[1])) if taken else None

    async def put_off(self, notice: Notice, wait_s: float) -> None:
        """Send it again after so long."""
        await self._scripts.run(
            "settle_notice", notice.job_id, notice.attempt, "", int(wait_s * 1000)
        )

    async def settle(self, notice: Notice, told: Mapping[str, Any]) -> None:
        """Keep its outcome as an event, and send it no more."""
        data = json.dumps(dict(told))
        await self._scripts.run("settle_notice", notice.job_id, notice.attempt, data, 0)
