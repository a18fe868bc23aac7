"""Drives one job: dispatch, update, persist, repeat.

Redis is the truth and Ray is disposable: whatever goes wrong here, the job goes on from its last
commit under the next lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, WorkerCrashedError

from drmad_client.records import Best, HyperparameterInfo, JobError, JobStatus, Progress
from drmad_client.specs import JobSpec
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Lease, ResumePoint, Step, Store
from drmad_service.transitions import Action
from drmad_workers.tasks import Failure, Prepared, Replica, State, StepResult, meta_step

logger = logging.getLogger(__name__)


class _Ended(Exception):
    """The job came to its end; carries what to write."""

    def __init__(
        self, action: Action, reason: str, message: str = "", error: JobError | None = None
    ) -> None:
        super().__init__(reason)
        self.action, self.reason, self.message, self.error = action, reason, message, error


class Runner:
    """Drives the job of one lease, until it ends or the lease is lost."""

    def __init__(self, store: Store, lease: Lease, settings: SchedulerSettings) -> None:
        self._store = store
        self._lease = lease
        self._settings = settings
        self._replicas: list[Any] = []
        self._infos: list[HyperparameterInfo] = []
        self._asked: asyncio.Future[tuple[str, int, int]] | None = None

    async def run(self) -> None:
        """Drive the job.

        Raises:
            LeaseLost: somebody else drives it now.
            RedisError: the store does not answer; the lease runs out and the job is taken up again.
        """
        job = await self._store.get(self._lease.job_id)
        self._spec: JobSpec = job.spec
        self._shown = job.progress
        self._failures = 0
        try:
            if job.status is JobStatus.CANCELLING:
                raise _Ended(Action.STOP, "cancelled", "cancelled by its user")
            await self._drive()
        except _Ended as end:
            # What the job holds is free again before anybody reads that it has ended.
            self._kill()
            await self._store.act(self._lease, end.action, end.reason, end.message, end.error)
        finally:
            self._kill()

    async def _drive(self) -> None:
        point: ResumePoint | None = None
        while True:
            try:
                if not self._replicas:
                    point = await self._start()
                assert point is not None
                point = await self._meta_iteration(point)
                self._failures = 0
            except (RayActorError, WorkerCrashedError, OutOfMemoryError) as error:
                await self._replica_lost(error)

    async def _start(self) -> ResumePoint:
        """Have every replica build the problem. Returns where the job goes on."""
        self._replicas = await asyncio.to_thread(self._create_replicas)
        prepared = await self._attended(
            [replica.prepare.remote() for replica in self._replicas], self._settings.start_timeout_s
        )
        first: Prepared = prepared[0]
        self._infos = [HyperparameterInfo(**info) for info in first.hyperparameters]
        point = await self._store.resume_point(self._lease.job_id)
        if point is None:
            point = ResumePoint(0, first.start.tensors, first.start.scalars)
            await self._store.begin(self._lease, self._infos, point)
        status = (await self._store.get(self._lease.job_id)).status
        if status is JobStatus.STARTING:
            await self._store.act(self._lease, Action.RUN, "started")
        return point

    def _create_replicas(self) -> list[Any]:
        spec, resources = self._spec.model_dump_json(), self._spec.resources
        placed = Replica.options(  # type: ignore[attr-defined]
            num_cpus=resources.cpus, num_gpus=resources.gpus
        )
        roots = [str(root) for root in self._settings.data_roots]
        return [
            placed.remote(spec, number, resources.cpus, roots)
            for number in range(self._spec.replicas.count)
        ]

    async def _meta_iteration(self, point: ResumePoint) -> ResumePoint:
        """Compute and commit one meta-iteration. Returns where the next one begins."""
        began = time.monotonic()
        state = ray.put(State(point.tensors, point.scalars))
        results = [
            replica.meta_iteration.remote(state, point.iteration) for replica in self._replicas
        ]
        infos = [info.model_dump() for info in self._infos]
        stepped = meta_step.remote(
            self._spec.model_dump_json(), infos, state, self._settings.max_model_bytes, *results
        )
        (result,) = await self._attended([stepped])
        assert isinstance(result, StepResult)
        elapsed_s = time.monotonic() - began
        step = self._step(point.iteration, result, elapsed_s)
        await self._store.commit(self._lease, step)
        self._shown = step.progress
        if result.finished:
            told = {
                "iterations": "every meta-iteration asked for is done",
                "patience": "the validation loss no longer improves",
            }
            raise _Ended(Action.SUCCEED, result.finished, told[result.finished])
        return step.next_state

    def _step(self, iteration: int, result: StepResult, elapsed_s: float) -> Step:
        left = self._spec.meta.iterations - iteration - 1
        record = result.record
        return Step(
            iteration=iteration,
            record=record | {"seconds": record["seconds"] | {"total": elapsed_s}},
            next_state=ResumePoint(iteration + 1, result.state.tensors, result.state.scalars),
            hypergradient=result.hypergradient,
            model=result.model,
            progress=Progress(
                iteration=iteration + 1,
                iterations=self._spec.meta.iterations,
                remaining_s=left * elapsed_s,
            ),
            best=Best(
                iteration=iteration,
                validation_loss=record["validation_loss"],
                metrics=record["metrics"],
            )
            if record["is_best"]
            else None,
        )

    async def _attended(self, refs: Sequence[Any], timeout_s: float | None = None) -> list[Any]:
        """Wait for results, showing progress and hearing a cancellation.

        Raises:
            _Ended: cancelled, or one of the results is a Failure.
            RayError: a replica is lost.
        """
        gathered = asyncio.gather(*(asyncio.wrap_future(ref.future()) for ref in refs))
        deadline = time.monotonic() + timeout_s if timeout_s else None
        try:
            while not (await asyncio.wait([gathered], timeout=self._settings.poll_s))[0]:
                await self._show_progress()
                if deadline and time.monotonic() > deadline:
                    message = (
                        f"{self._spec.replicas.count} replicas were not ready within {timeout_s} s"
                    )
                    raise _Ended(Action.RELEASE, "not_placed", message)
            results = gathered.result()
        finally:
            gathered.cancel()
        for result in results:
            if isinstance(result, Failure):
                error = JobError(
                    code=result.code,
                    message=result.message,
                    iteration=result.iteration,
                    step=result.step,
                    traceback=result.traceback,
                )
                raise _Ended(Action.FAIL, result.code, result.message, error)
        return results

    async def _show_progress(self) -> None:
        if self._asked is None:
            self._asked = asyncio.wrap_future(self._replicas[0].progress.remote().future())
        progress = self._shown
        if self._asked.done():
            with contextlib.suppress(RayError):  # its result, awaited elsewhere, tells
                phase, step, steps = self._asked.result()
                progress = self._shown.model_copy(
                    update={"phase": phase, "step": step, "steps": steps}
                )
            self._asked = None
        if progress == self._shown:
            status = await self._store.status(self._lease)
        else:
            self._shown = progress
            status = await self._store.progress(self._lease, progress)
        if status is JobStatus.CANCELLING:
            raise _Ended(Action.STOP, "cancelled", "cancelled by its user")

    async def _replica_lost(self, error: RayError) -> None:
        """Begin the meta-iteration again with new replicas, a bounded number of times in a row."""
        self._kill()
        self._failures += 1
        cause = str(error).strip().splitlines()[0]
        if self._failures > self._settings.replica_failures:
            message = f"lost a replica {self._failures} times in a row: {cause}"
            if isinstance(error, OutOfMemoryError):
                message += "; a smaller batch_size or fewer knots need less memory"
            raise _Ended(
                Action.FAIL,
                "replica_lost",
                message,
                JobError(code="replica_lost", message=message),
            )
        logger.warning("a replica was lost", extra={"job_id": self._lease.job_id, "cause": cause})
        await self._store.warn(
            self._lease, "replica_lost", f"begins the meta-iteration again: {cause}"
        )

    def _kill(self) -> None:
        for replica in self._replicas:
            with contextlib.suppress(RayError):
                ray.kill(replica)
        self._replicas = []
        self._asked = None
