"""Control requests (pause, cancel), read once for all jobs that a scheduler drives."""

from __future__ import annotations

import asyncio
import contextlib

from redis.exceptions import RedisError

from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store

_POLLS_PER_S = 400
"""Upper bound over all driven jobs together: one poll costs a scheduler about a millisecond."""


class ControlRequests:
    """Wakes the driver of a job that is to pause or to be cancelled.

    Drivers therefore need not poll often for control requests, and poll their replicas less often
    the more jobs the scheduler drives.
    """

    def __init__(self, store: Store, settings: SchedulerSettings) -> None:
        self._store = store
        self._poll_s = settings.poll_s
        self._requested: dict[str, asyncio.Event] = {}

    def of(self, job_id: str) -> asyncio.Event:
        """The event that is set while a control request of the job is open; its driver clears it.

        An event that is cleared before the request is applied is set again by the next poll.
        """
        return self._requested.setdefault(job_id, asyncio.Event())

    def forget(self, job_id: str) -> None:
        self._requested.pop(job_id, None)

    @property
    def pace_s(self) -> float:
        """Seconds between two polls of one job by its driver."""
        return max(self._poll_s, len(self._requested) / _POLLS_PER_S)

    async def listen(self) -> None:
        """Poll the store for ever, at the interval `poll_s` whatever the number of jobs."""
        while True:
            if self._requested:
                with contextlib.suppress(RedisError):
                    for job_id in await self._store.control_requests():
                        if job_id in self._requested:
                            self._requested[job_id].set()
            await asyncio.sleep(self._poll_s)
