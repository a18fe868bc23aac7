"""Progress reports and log lines of a job's replicas."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from drmad_service.ray_driver.connection import CallFailed
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.ray_futures import future_of
from drmad_workers.ray_actor.messages import ProgressReport


class ReplicaReports:
    """Requests reports from the actors of a job, at most one at a time from each."""

    def __init__(self, job: DrivenJob) -> None:
        self._job = job
        self._requested: dict[int, asyncio.Future[ProgressReport]] = {}
        self._read: dict[int, Sequence[int]] = {}

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

    async def collect_remains(self, heard: Callable[[], Awaitable[Any]]) -> None:
        """Log what replicas that have ended printed since their last report.

        Args:
            heard: polls the control requests of the job, while workers are asked.
        """
        job = self._job
        asked = job.replicas.remains(self._read)
        futures = [future_of(reference) for _, reference in asked]
        until = time.monotonic() + job.settings.remains_s  # a node that is gone may never answer
        while not all(future.done() for future in futures) and time.monotonic() < until:
            await asyncio.wait(futures, timeout=job.settings.poll_s)
            await heard()
        for (numbers, _), future in zip(asked, futures, strict=True):
            if not future.done() or future.exception() is not None:
                continue
            for number, lines in zip(numbers, future.result(), strict=True):
                if lines:
                    await job.persist(self._logging(number, lines))

    def discard(self) -> None:
        """Forget the pending requests: their replicas were killed."""
        self._requested = {}
        self._read = {}

    def _exchange(self, number: int) -> ProgressReport | None:
        """Take the report of an actor, if it has arrived, and request the next one."""
        requested = self._requested.get(number)
        if requested is not None and not requested.done():
            return None
        self._requested[number] = future_of(self._job.replicas.actors[number].report.remote())
        with contextlib.suppress(CallFailed):  # whoever awaits the actor's result handles the loss
            if requested is not None:
                report = requested.result()
                self._read[number] = report.read
                return report
        return None

    def _logging(self, number: int, lines: Sequence[str]) -> Callable[[], Awaitable[None]]:
        job = self._job
        return functools.partial(job.store.log, job.lease, job.replicas.first(number), lines)
