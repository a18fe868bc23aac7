"""The training runs of an online job: its checkpoints, and where its replicas continue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drmad_client.spec.outer.online import checkpoint_due, checkpoint_refusal, first_window
from drmad_service.errors import ResultNotFound
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.job_driver.outcomes import fail, fail_or_retry
from drmad_service.scheduling.job_driver.waiting import JobMonitor
from drmad_service.store import ResumePoint
from drmad_service.store.access.large_values import IN_REDIS_BYTES
from drmad_workers.ray_actor.messages import Failure, PackedState, PackedTraining


class TrainingRuns:
    """What an online job keeps beside its hyperparameters; a job of mode restart has nothing.

    The state before a window is that of the last checkpoint, trained further at the hyperparameters
    of the windows since, without their derivatives. Where a checkpoint is lost or damaged the one
    before takes its place, and at last the begin of the training run, which its seed determines.
    """

    def __init__(self, job: DrivenJob, monitor: JobMonitor) -> None:
        self._job = job
        self._monitor = monitor

    def require_room(self, replica_bytes: int) -> None:
        """
        Args:
            replica_bytes: the size of the training state of a replica.
        Raises:
            JobReleased: a checkpoint of all replicas is larger than the service keeps.
        """
        most = self._job.settings.max_model_bytes
        count = self._job.spec.replicas.count
        if refusal := checkpoint_refusal(replica_bytes, count, most):
            fail(Failure("checkpoint_too_large", refusal))

    async def restore(self, point: ResumePoint) -> None:
        """Bring the replicas to the state from which the window after `point` continues.

        Raises:
            JobReleased: neither a checkpoint nor the hyperparameters of all windows are kept.
            CallFailed: a replica is lost.
        """
        job, number = self._job, point.iteration
        first = first_window(job.spec, number)
        if job.spec.meta.mode != "online" or number == first:
            return
        kept = await job.store.checkpoints(job.lease.job_id)
        # The windows before, which a horizon beyond the window reads, are trained again too.
        latest = number - job.spec.windows_before
        candidates = [each for each in kept if first < each <= latest]
        for start in (*reversed(candidates), first):
            try:
                states = await self._states(start) if start > first else None
            except ResultNotFound as missing:
                earlier = max((each for each in candidates if each < start), default=None)
                await self._warn(start, str(missing), earlier)
                continue
            await self._train_again(start, states, number)
            return

    async def checkpoint(self, number: int) -> list[ResumePoint]:
        """The training state of each replica before window `number`, if a checkpoint is due."""
        if not checkpoint_due(self._job.spec, number):
            return []
        found = []
        for state in await self._monitor.results(
            [actor.training_state.remote() for actor in self._job.replicas.actors]
        ):
            if isinstance(state, Failure):
                fail_or_retry(state)
            found.append(ResumePoint(number, state.tensors, state.scalars))
        inline = sum(len(each.tensors) for each in found if isinstance(each.tensors, bytes))
        if inline > IN_REDIS_BYTES:
            message = (
                f"the workers may not write a checkpoint of {inline:,} bytes to the artifact "
                f"store, and Redis takes at most {IN_REDIS_BYTES:,}: ask the operator to let them"
            )
            fail(Failure("checkpoint_too_large", message))
        return found

    async def _warn(self, lost: int, reason: str, earlier: int | None) -> None:
        job = self._job
        source = "its begin" if earlier is None else f"the checkpoint before window {earlier + 1}"
        message = (
            f"the checkpoint before window {lost + 1} is lost or damaged ({reason}); "
            f"the training run goes on from {source}"
        )
        await job.persist(lambda: job.store.warn(job.lease, "checkpoint_lost", message))

    async def _states(self, start: int) -> Sequence[PackedTraining]:
        job = self._job
        kept = await job.store.checkpoint(job.lease.job_id, start)
        return [PackedTraining(each.tensors, each.scalars) for each in kept]

    async def _train_again(
        self, start: int, states: Sequence[PackedTraining] | None, number: int
    ) -> None:
        job = self._job
        try:
            points = await job.store.points(job.lease.job_id, range(start, number))
        except ResultNotFound as missing:
            message = (
                f"the training state before window {number + 1} cannot be restored, because the "
                f"hyperparameters of the windows from {start + 1} on are not kept: {missing}"
            )
            fail(Failure("training_lost", message, number))
        actors = job.replicas.actors
        packed: Any = [PackedState(each.tensors, each.scalars) for each in points]
        if len(actors) > 1:
            packed = job.replicas.put(packed)  # stored once, however many replicas there are
        failures = await self._monitor.results(
            [
                actor.resume_training.remote(start, states and states[index], packed)
                for index, actor in enumerate(actors)
            ]
        )
        for failure in failures:
            if failure is not None:
                fail_or_retry(failure)
