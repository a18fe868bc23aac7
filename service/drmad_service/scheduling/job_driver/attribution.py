"""A job of kind attribution: one round of its replicas, each of which is a draw."""

from __future__ import annotations

from typing import NoReturn

from drmad_client.records.side_runs.attribution import AttributionReport
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.job_driver.outcomes import JobReleased, fail_or_retry
from drmad_service.scheduling.job_driver.retraining import request_retraining
from drmad_service.scheduling.job_driver.waiting import JobMonitor
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.store.access.large_values import IN_REDIS_BYTES
from drmad_service.store.layout.state_machine import Action
from drmad_workers.ray_actor.messages import AttributionResult, Failure


class JobAttribution:
    """Computes and keeps the attribution of one job."""

    def __init__(self, job: DrivenJob, monitor: JobMonitor) -> None:
        self._job = job
        self._monitor = monitor

    async def run(self) -> NoReturn:
        """Attribute, unless an earlier lease has, and end the job.

        Raises:
            JobReleased: the job has ended, or its user cancelled it.
            CallFailed: a replica is lost.
            ReplicaFailed: a replica ran out of memory.
        """
        job = self._job
        if not await job.store.has_attribution(job.lease.job_id):
            found = await self._attributed()
            progress = job.progress.model_copy(
                update={"iteration": 1, "remaining_s": 0.0, "spent_s": job.spent_s()}
            )
            report = AttributionReport.model_validate(found.report)
            await job.persist(
                lambda: job.store.keep_attribution(job.lease, report, found.scores, progress)
            )
            job.progress = progress
        await request_retraining(job)
        raise JobReleased(Action.SUCCEED, "attributed", "every training example has its influence")

    async def _attributed(self) -> AttributionResult:
        actors = self._job.replicas.actors
        most_bytes = min(self._job.settings.max_model_bytes, IN_REDIS_BYTES)
        asked = [actor.attribute.remote(most_bytes) for actor in actors]
        answers = [future_of(answer) for answer, _ in asked]
        await self._monitor.wait(answers)
        for answer in answers:
            failure: Failure | None = answer.result()
            if failure is not None:
                fail_or_retry(failure)
        whole = future_of(actors[0].attribution_step.remote(*(part for _, part in asked)))
        await self._monitor.wait([whole])
        result: AttributionResult | Failure = whole.result()
        if isinstance(result, Failure):
            fail_or_retry(result)
        return result
