"""Waiting for replicas while control requests, limits and progress are polled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from drmad_client.records.status import JobStatus
from drmad_service.scheduling.control_requests import ControlRequests
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.job_driver.outcomes import (
    PREEMPTED,
    JobReleased,
    apply_control,
    fail_or_retry,
)
from drmad_service.scheduling.job_driver.replica_reports import ReplicaReports
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.store import Capacity
from drmad_service.store.layout.state_machine import Action
from drmad_workers.ray_actor.messages import Failure


class JobMonitor:
    """Polls one job at the pace of its scheduler, whatever the driver waits for."""

    def __init__(
        self,
        job: DrivenJob,
        controls: ControlRequests,
        reports: ReplicaReports,
        capacity: Capacity,
    ) -> None:
        self._job = job
        self._controls = controls
        self._requested = controls.of(job.lease.job_id)
        self._reports = reports
        self._capacity = capacity
        self._polled = time.monotonic()
        self._outranked_polled = self._polled

    async def results(self, references: Sequence[Any], timeout_s: float | None = None) -> list[Any]:
        """Wait for the results of Ray references.

        Raises:
            JobReleased: as in `wait`, or a replica could not be prepared.
            CallFailed, ReplicaFailed: a replica is lost.
        """
        futures = [future_of(reference) for reference in references]
        await self.wait(futures, timeout_s=timeout_s)
        results = [future.result() for future in futures]
        for result in results:
            if isinstance(result, Failure) and result.iteration is None:
                fail_or_retry(result)
        return results

    async def wait(
        self,
        futures: Sequence[asyncio.Future[Any]],
        enough: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Wait until `enough` of the futures are done, or all of them.

        Raises:
            JobReleased: the job was cancelled, exceeded its timeout_s, or `timeout_s` passed.
            CallFailed: a replica is lost.
        """
        wanted = len(futures) if enough is None else enough
        deadline = time.monotonic() + timeout_s if timeout_s else None
        pending = set(futures)
        while len(futures) - len(pending) < wanted:
            poll_at = self._polled + self._controls.pace_s
            requested = asyncio.ensure_future(self._requested.wait())
            try:
                await asyncio.wait(
                    {*pending, requested},
                    timeout=max(0.0, poll_at - time.monotonic()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                requested.cancel()
            done = {future for future in pending if future.done()}
            pending -= done
            for future in done:
                future.result()
            if time.monotonic() < poll_at and not self._requested.is_set():
                continue
            await self.poll()
            if deadline and time.monotonic() > deadline:
                count = self._job.spec.replicas.count
                message = f"the replicas ({count}) were not ready within {timeout_s:g} s"
                raise JobReleased(Action.YIELD, "not_placed", message)

    async def poll(self) -> JobStatus:
        """Store the reported progress; apply control requests and the job's timeout_s.

        Raises:
            JobReleased: the job was cancelled or exceeded its timeout_s.
        """
        job = self._job
        self._polled = time.monotonic()
        self._requested.clear()
        report = await self._reports.collect()
        progress = job.progress
        if report is not None:
            update = {"phase": report.phase, "step": report.step, "steps": report.steps}
            progress = progress.model_copy(update=update)
        if progress == job.progress:
            status = await job.persist(lambda: job.store.status(job.lease))
        else:
            job.progress = progress
            status = await job.persist(lambda: job.store.progress(job.lease, progress))
        apply_control(status)
        job.fail_if_overdue()
        return status

    async def poll_between_iterations(self) -> None:
        """Poll when a poll is due: a meta-iteration may end before `wait` polls even once.

        Raises:
            JobReleased: the job was cancelled, paused or preempted, or exceeded its timeout_s.
        """
        now = time.monotonic()
        if now > self._polled + self._controls.pace_s:
            apply_control(await self.poll(), between_iterations=True)
        if now > self._outranked_polled + self._controls.pace_s:
            self._outranked_polled = now
            await self.release_if_outranked()

    async def release_if_outranked(self) -> None:
        """
        Raises:
            JobReleased: a queued job of higher priority needs what this one holds.
        """
        job = self._job
        if await job.persist(lambda: job.store.outranked(job.lease, self._capacity)):
            raise JobReleased(Action.YIELD, "preempted", PREEMPTED)
