"""Hears what users want of running jobs: once for all jobs that a scheduler drives."""

from __future__ import annotations

import asyncio
import contextlib

from redis.exceptions import RedisError

from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store

_LOOKS_PER_S = 400
"""At all driven jobs together: one costs a scheduler about a millisecond."""


class ControlRequests:
    """Wakes whoever drives a job that is to pause or to be cancelled.

    So runners need not ask often, and how often they look at their replicas can depend on how many
    they are.
    """

    def __init__(self, store: Store, settings: SchedulerSettings) -> None:
        self._store = store
        self._poll_s = settings.poll_s
        self._heard: dict[str, asyncio.Event] = {}

    def of(self, job_id: str) -> asyncio.Event:
        """Set while something is wished of the job; to be cleared by whoever has looked."""
        return self._heard.setdefault(job_id, asyncio.Event())

    def forget(self, job_id: str) -> None:
        self._heard.pop(job_id, None)

    @property
    def pace_s(self) -> float:
        """Seconds between two looks at a job by whoever drives it."""
        return max(self._poll_s, len(self._heard) / _LOOKS_PER_S)

    async def listen(self) -> None:
        """Ask for ever, as often as a job is looked at where there are few."""
        while True:
            if self._heard:
                with contextlib.suppress(RedisError):
                    for job_id in await self._store.wished():
                        if job_id in self._heard:
                            self._heard[job_id].set()
            await asyncio.sleep(self._poll_s)
