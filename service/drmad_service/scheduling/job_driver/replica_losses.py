"""Recovery from lost replicas: new ones compute the meta-iteration again, up to a limit."""

from __future__ import annotations

import asyncio
import logging
import time

from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.job_driver.outcomes import fail
from drmad_service.scheduling.job_driver.replica_reports import ReplicaReports
from drmad_service.scheduling.job_driver.waiting import JobMonitor
from drmad_workers.ray_actor.failures import ARTIFACTS_FAIL, REPLICA_LOST
from drmad_workers.ray_actor.messages import Failure

logger = logging.getLogger(__name__)


class ReplicaLosses:
    """Counts consecutive losses and doubles the delay after each.

    A meta-iteration whose model the artifact store did not take counts as one, under its own name.
    """

    def __init__(self, job: DrivenJob, monitor: JobMonitor, reports: ReplicaReports) -> None:
        self._job = job
        self._monitor = monitor
        self._reports = reports
        self._in_a_row = 0

    def reset(self) -> None:
        """A meta-iteration or a search succeeded: the next loss is the first in a row."""
        self._in_a_row = 0

    async def recover(self, loss: Failure) -> None:
        """Free the replicas and wait until new ones may be placed.

        Raises:
            JobReleased: more replicas were lost in a row than `retry.replica_failures`, or the job
                was cancelled meanwhile.
            RayLost: the whole cluster is gone, which is no failure of this job's replicas.
        """
        job, settings = self._job, self._job.settings
        await self._reports.collect_trailing_lines()
        await self._reports.collect_remains(self._monitor.poll)
        job.replicas.kill()
        self._reports.discard()
        await job.cluster.capacity()
        self._in_a_row += 1
        allowed = job.spec.retry.replica_failures
        is_store = loss.code == ARTIFACTS_FAIL
        what = "the artifact store failed" if is_store else "a replica was lost"
        if self._in_a_row > allowed:
            message = (
                f"{what} {self._in_a_row} times in a row, retry.replica_failures allows {allowed}: "
                f"{loss.message}"
            )
            fail(Failure(loss.code, message, loss.iteration))
        fields = {"job_id": job.lease.job_id, "cause": loss.message}
        logger.warning(what, extra=fields)
        message = f"{what}, the meta-iteration restarts: {loss.message}"
        code = ARTIFACTS_FAIL if is_store else REPLICA_LOST
        await job.persist(lambda: job.store.warn(job.lease, code, message))
        pause_s = settings.retry_s * 2.0 ** min(self._in_a_row - 1, 16)
        again_at = time.monotonic() + min(pause_s, settings.longest_retry_s)
        while time.monotonic() < again_at:
            await asyncio.sleep(settings.poll_s)
            await self._monitor.poll()
