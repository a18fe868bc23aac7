"""Rollback: a meta-iteration begins again from the best state with half the outer step."""

from __future__ import annotations

from drmad_service.errors import ResultNotFound
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.job_driver.outcomes import apply_control, fail, fail_or_retry
from drmad_service.scheduling.job_driver.waiting import JobMonitor
from drmad_service.store import ResumePoint
from drmad_workers.ray_actor.messages import Failure, PackedState

RECOVERABLE = ("training_diverged", "hypergradient_diverged")
"""Codes of failures that a smaller outer step may avoid."""


class Rollbacks:
    """Rolls meta-iterations of one job back, `meta.max_rollbacks` times in a row."""

    def __init__(self, job: DrivenJob, monitor: JobMonitor) -> None:
        self._job = job
        self._monitor = monitor

    async def roll_back(self, point: ResumePoint, failure: Failure) -> ResumePoint:
        """Returns where the same meta-iteration begins again.

        Args:
            failure: why the meta-iteration that began at `point` is rolled back.
        Raises:
            JobReleased: no best state is kept, the rollbacks are used up, or the job was cancelled
                or paused.
        """
        job = self._job
        if job.spec.meta.mode == "online":
            message = (
                f"{failure.message}; the windows of an online job are parts of one training run "
                "and are not rolled back: lower meta.learning_rate or training.learning_rate, and "
                "fork the job from an earlier window or submit it again"
            )
            fail(Failure(failure.code, message, failure.iteration, failure.step))
        best = (await job.store.get(job.lease.job_id)).best
        if best is None:
            fail(failure)
        count = point.scalars["rollbacks"]
        if count >= job.spec.meta.max_rollbacks:
            message = (
                f"{failure.message}; {count} rollbacks did not help: lower meta.learning_rate, or "
                "bound the hyperparameters (lower, upper)"
            )
            fail(Failure(failure.code, message, failure.iteration, failure.step))
        try:
            kept, hypergradient = await job.store.kept_point(job.lease.job_id, best.iteration)
            record = await job.store.iteration(job.lease.job_id, best.iteration)
        except ResultNotFound:
            fail(failure)
        states = (
            PackedState(point.tensors, point.scalars),
            PackedState(kept.tensors, kept.scalars),
        )
        replicas = [figures.replica for figures in record.replicas]
        actor = job.replicas.actors[0]
        (state,) = await self._monitor.results(
            [actor.roll_back.remote(job.info_fields(), *states, hypergradient, replicas)]
        )
        if isinstance(state, Failure):
            fail_or_retry(state)
        again = ResumePoint(point.iteration, state.tensors, state.scalars)
        message = (
            f"{failure.message}; rolled back to meta-iteration {best.iteration + 1}, half the step"
        )
        status = await job.persist(lambda: job.store.roll_back(job.lease, again, message))
        apply_control(status, between_iterations=True)
        return again
