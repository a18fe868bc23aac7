"""Progress reports and log lines of a job's replicas."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.printed_lines import PrintedLines, Worker, lines_of
from drmad_workers.ray_actor.messages import ProgressReport


class ReplicaReports:
    """Requests reports from the workers of a job, and logs what they print."""

    def __init__(self, job: DrivenJob) -> None:
        self._job = job
        self._printed = PrintedLines()

    async def collect(self) -> ProgressReport | None:
        """Log the lines of all workers. Returns the new report of the first one, if there is one.

        Never waits for a worker: a report that is on its way is collected by a later call.
        """
        first: ProgressReport | None = None
        for number, worker in enumerate(self._job.replicas.workers):
            report = self._printed.take(worker)
            if report is not None and report.lines:
                await self._job.persist(self._logging(worker, report.lines))
            if number == 0:
                first = report
        return first

    async def collect_trailing_lines(self) -> None:
        """Log the lines printed since the last report, of the workers that still answer."""
        for _ in range(2):  # the report on its way may be older than the last line
            await self._printed.arrive(self._job.settings.last_lines_s)
            for worker in self._job.replicas.workers:
                report = self._printed.take(worker)
                if report is not None and report.lines:
                    await self._job.attempt(self._logging(worker, report.lines))

    async def collect_remains(self, heard: Callable[[], Awaitable[Any]]) -> None:
        """Log what workers that have ended printed since their last report.

        Args:
            heard: polls the control requests of the job, while the nodes are asked.
        """
        job = self._job
        remains = job.replicas.remains(self._printed.read)
        for worker, lines in await lines_of(remains, job.settings, heard):
            await job.persist(self._logging(worker, lines))

    def discard(self) -> None:
        """Forget the pending requests: their workers were killed."""
        self._printed.discard()

    def _logging(self, worker: Worker, lines: Sequence[str]) -> Callable[[], Awaitable[None]]:
        job = self._job
        return functools.partial(job.store.log, job.lease, worker.replica, lines, worker.source)
