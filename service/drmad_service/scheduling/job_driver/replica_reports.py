"""Progress reports and log lines of a job's replicas."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence

from drmad_service.ray_driver.connection import CallFailed
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.ray_futures import future_of
from drmad_workers.ray_actor.messages import ProgressReport


class ReplicaReports:
    """Requests reports from the actors of a job, at most one at a time from each."""

    def __init__(self, job: DrivenJob) -> None:
        self._job = job
        self._requested: dict[int, asyncio.Future[ProgressReport]] = {}

    async def collect(self) -> ProgressReport | None:
        """Log the lines of all replicas. Returns the new report of the first one, if there is one.

        Never waits for a replica: a report that is on its way is collected by a later call.
        """
        first: ProgressReport | None = None
        for number in range(len(self._job.replicas.actors)):
            report = self._exchange(number)
            if report is not None and report.lines:
                await self._job.persist(self._logging(number, report.lines))
            if number == 0:
                first = report
        return first

    async def collect_trailing_lines(self) -> None:
        """Log the lines printed since the last report, of the replicas that still answer."""
        for _ in range(2):  # the report on its way may be older than the last line
            if self._requested:
                timeout_s = self._job.settings.last_lines_s
                await asyncio.wait(self._requested.values(), timeout=timeout_s)
            for number in range(len(self._job.replicas.actors)):
                report = self._exchange(number)
                if report is not None and report.lines:
                    await self._job.attempt(self._logging(number, report.lines))

    def discard(self) -> None:
        """Forget the pending requests: their replicas were killed."""
        self._requested = {}

    def _exchange(self, number: int) -> ProgressReport | None:
        """Take the report of an actor, if it has arrived, and request the next one."""
        requested = self._requested.get(number)
        if requested is not None and not requested.done():
            return None
        self._requested[number] = future_of(self._job.replicas.actors[number].report.remote())
        with contextlib.suppress(CallFailed):  # whoever awaits the actor's result handles the loss
            return requested.result() if requested is not None else None
        return None

    def _logging(self, number: int, lines: Sequence[str]) -> Callable[[], Awaitable[None]]:
        job = self._job
        return functools.partial(job.store.log, job.lease, job.replicas.first(number), lines)
