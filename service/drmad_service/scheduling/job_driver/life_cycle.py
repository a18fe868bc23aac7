"""The life cycle of a driven job: place, search, prepare, then meta-iterations until it ends.

Redis is the truth and Ray is disposable: after any failure here the job continues from its last
commit, under this lease or the next one.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from functools import partial
from typing import Any, NoReturn

from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import StartPhases
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service import logs, traces
from drmad_service.job_limits import too_many
from drmad_service.ray_driver.connection import CallFailed
from drmad_service.scheduling.control_requests import ControlRequests
from drmad_service.scheduling.job_driver.attribution import JobAttribution
from drmad_service.scheduling.job_driver.confirmation import JobConfirmation
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.job_driver.outcomes import (
    JobReleased,
    ReplicaFailed,
    apply_control,
    fail,
    fail_or_retry,
)
from drmad_service.scheduling.job_driver.preflight import JobPreflight
from drmad_service.scheduling.job_driver.replica_losses import ReplicaLosses
from drmad_service.scheduling.job_driver.replica_reports import ReplicaReports
from drmad_service.scheduling.job_driver.results import commit_of
from drmad_service.scheduling.job_driver.retraining import request_retraining
from drmad_service.scheduling.job_driver.rollback import RECOVERABLE, Rollbacks
from drmad_service.scheduling.job_driver.training_runs import TrainingRuns
from drmad_service.scheduling.job_driver.waiting import JobMonitor
from drmad_service.scheduling.ray_cluster import ComputeCluster
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.scheduling.replica_group import runtime_options
from drmad_service.scheduling.rounds import AsyncRounds, Rounds, SyncRounds
from drmad_service.scheduling.search_run import Search, SearchFailed
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, Lease, ResumePoint, Store
from drmad_service.store.jobs.warm_starts import WarmStart
from drmad_service.store.layout.state_machine import Action
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.ray_actor.failures import LOSSES
from drmad_workers.ray_actor.messages import Failure, Prepared, RollbackRequired, StepResult

_FINISHED = {
    "iterations": "every requested meta-iteration is committed",
    "patience": "the validation loss no longer improves",
}


class JobDriver:
    """Drives the job of one lease until the job ends, is released or the lease is lost."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        settings: SchedulerSettings,
        capacity: Capacity,
        controls: ControlRequests,
        cluster: ComputeCluster,
    ) -> None:
        self._store = store
        self._lease = lease
        self._settings = settings
        self._capacity = capacity
        self._controls = controls
        self._cluster = cluster

    async def run(self) -> None:
        """Drive the job.

        Raises:
            LeaseLost: another scheduler drives the job now.
            RayLost: the cluster does not answer.
            RedisError: Redis does not answer while the job is begun.
        """
        await self._store.status(self._lease)
        record = await self._store.get(self._lease.job_id)
        logs.tenant.set(record.tenant)
        code = await _code(self._store, record.spec)
        job = DrivenJob(self._store, self._lease, self._settings, self._cluster, record, code)
        reports = ReplicaReports(job)
        monitor = JobMonitor(job, self._controls, reports, self._capacity)
        preflight = JobPreflight(job, monitor, record.preflight)
        losses = ReplicaLosses(job, monitor, reports)
        life_cycle = _LifeCycle(job, monitor, reports, preflight, Rollbacks(job, monitor), losses)
        try:
            apply_control(record.status, between_iterations=True)
            await life_cycle.drive()
        except JobReleased as released:
            transition = released.transition
            await reports.collect_trailing_lines()
            # The cluster is free again before anybody reads that the job has ended.
            job.replicas.kill()
            await job.end(*transition)
        finally:
            job.replicas.kill()


class _LifeCycle:
    """The stages of one job, each of which may be entered again after a loss of replicas."""

    def __init__(
        self,
        job: DrivenJob,
        monitor: JobMonitor,
        reports: ReplicaReports,
        preflight: JobPreflight,
        rollbacks: Rollbacks,
        losses: ReplicaLosses,
    ) -> None:
        self._job = job
        self._monitor = monitor
        self._reports = reports
        self._preflight = preflight
        self._rollbacks = rollbacks
        self._losses = losses
        self._confirmation = JobConfirmation(job, monitor)
        self._training_runs = TrainingRuns(job, monitor)

    async def drive(self) -> None:
        """Never returns.

        Raises:
            JobReleased: the job ends, or another driver continues it later.
        """
        point: ResumePoint | None = None
        while True:
            try:
                if point is None or not self._job.replicas.actors:
                    point = await self._start()
                    if self._job.spec.kind == "attribution":
                        await JobAttribution(self._job, self._monitor).run()
                    if (finished := await self._finished(point)) is not None:
                        await self._succeed(point, finished)
                    with self._job.phase("compare"):
                        await self._preflight.compare_method(point)
                traced = {
                    "drmad.job_id": self._job.lease.job_id,
                    "drmad.iteration": point.iteration,
                }
                with traces.span("meta-iteration", traced):
                    point = await self._meta_iteration(point)
                self._losses.reset()
                await self._monitor.poll_between_iterations()
            except CallFailed as error:
                failure = error.failure
                if failure.code not in LOSSES:
                    fail(failure)
                await self._losses.recover(failure)
            except ReplicaFailed as failed:
                await self._losses.recover(failed.failure)

    async def _start(self) -> ResumePoint:
        """Have every replica build the problem. Returns where the job continues."""
        job = self._job
        while job.spec.search is not None:
            await self._search(job.spec.search.trials)
        reason = job.spec.not_batched
        if reason is not None and job.asks_for_batches:
            await job.separate(reason)
        job.phases = {}
        await self._place()
        settings = job.settings
        first = await self._prepare()
        if first.not_batched is not None:
            await job.separate(first.not_batched)
            self._reports.discard()
            await self._place()
            first = await self._prepare()
        job.infos = [HyperparameterInfo(**info) for info in first.hyperparameters]
        count = sum(math.prod(info.shape) for info in job.infos)
        if count > (most := settings.max_hyperparameters):
            message = too_many("hyperparameters", count, most)
            fail(Failure("too_many_hyperparameters", message))
        self._training_runs.require_room(first.training_bytes)
        with job.phase("preflight"):
            await self._preflight.short_run()
        self._rounds = self._new_rounds()
        point = await job.store.resume_point(job.lease.job_id)
        start = ResumePoint(0, first.start.tensors, first.start.scalars)
        adapted: list[str] = []
        if point is None:
            warm = await job.persist(lambda: job.store.warm_start(job.lease.job_id))
            if warm is not None:
                start, adapted = await self._warm_start(warm)
        begun = None if point else start
        await job.persist(lambda: job.store.begin(job.lease, job.infos, begun, adapted))
        point = point or start
        status = await job.persist(lambda: job.store.act(job.lease, Action.RUN, "started"))
        apply_control(status, between_iterations=True)
        await self._training_runs.restore(point)
        return point

    async def _warm_start(self, warm: WarmStart) -> tuple[ResumePoint, list[str]]:
        """The initial state with the values of another job, and what of them was adapted."""
        worker = self._job.replicas.actors[0]
        call = worker.warm_start.remote(warm.tensors, warm.infos, warm.schedules)
        (found,) = await self._monitor.results([call])
        if isinstance(found, Failure):
            fail(found)
        packed, adapted = found
        return ResumePoint(0, packed.tensors, packed.scalars), adapted

    async def _prepare(self) -> Prepared:
        """Have every actor build the problem. Returns the report of the first."""
        job, settings = self._job, self._job.settings
        install_s = settings.install_timeout_s if runtime_options(job.spec) else 0.0
        with job.phase("prepare"):
            prepared: list[Prepared] = await self._monitor.results(
                [actor.prepare.remote() for actor in job.replicas.actors],
                settings.start_timeout_s + install_s,
            )
        return prepared[0]

    async def _place(self) -> None:
        """Start the replicas on the nodes that the store chose; on others where these are lost."""
        job = self._job
        with job.phase("place"):
            await self._place_on_nodes(job)

    async def _place_on_nodes(self, job: DrivenJob) -> None:
        while True:
            place = functools.partial(job.store.place, job.lease, await job.cluster.capacity())
            places = await job.persist(place)
            if not places:
                message = (
                    f"the nodes that are left have no room for {job.spec.replicas.count} replicas"
                )
                raise JobReleased(Action.YIELD, "not_placed", message)
            reserved = job.replicas.reserve(places)
            if reserved is None or await self._is_ready(reserved, {p.node for p in places}):
                return job.replicas.create()
            job.replicas.kill()

    async def _is_ready(self, reserved: Any, nodes: set[str]) -> bool:
        """Wait for a reservation. Returns False when one of its nodes is lost meanwhile."""
        settings = self._job.settings
        lost = asyncio.ensure_future(self._loss_of(nodes))
        ready = future_of(reserved)
        try:
            await self._monitor.wait([ready, lost], 1, settings.start_timeout_s)
        finally:
            lost.cancel()
        return ready.done()

    async def _loss_of(self, nodes: set[str]) -> None:
        """Return when one of the nodes is gone."""
        while nodes <= {node.id for node in (await self._job.cluster.capacity()).nodes}:
            await asyncio.sleep(self._job.settings.nodes_s)

    async def _search(self, trials: int) -> None:
        """Find the values from which the job starts, on the actors of its replicas."""
        job = self._job
        if not job.replicas.actors:
            await self._place()
        await self._preflight.short_run()
        message = f"searches for a start, {trials} trials"
        await job.persist(lambda: job.store.act(job.lease, Action.RUN, "searching", message))
        search = Search(
            job.store,
            job.lease,
            job.spec,
            job.progress,
            job.replicas.actors,
            job.settings.poll_s,
            job.persist,
        )

        async def poll() -> JobStatus:
            search.progress = search.progress.model_copy(update={"spent_s": job.spent_s()})
            kept = {"trials": search.progress.trials, "spent_s": search.progress.spent_s}
            job.progress = job.progress.model_copy(update=kept)
            await self._monitor.release_if_outranked()
            return await self._monitor.poll()

        try:
            start = await search.run(poll)
        except SearchFailed as error:
            fail_or_retry(error.failure)
        job.progress = search.progress
        if start is None:  # the job was paused during the search, and may have been resumed since
            apply_control(await job.store.status(job.lease), between_iterations=True)
            return
        await job.persist(lambda: job.store.start_from(job.lease, start))
        self._losses.reset()
        self._reports.discard()
        job.restart_from(start.values)

    def _new_rounds(self) -> Rounds:
        job = self._job
        parts = (job.spec, job.info_fields(), job.replicas.actors, self._monitor.wait)
        most_bytes = job.settings.max_model_bytes
        if job.spec.replicas.mode == "sync":
            return SyncRounds(*parts, most_bytes, job.replicas.put)
        return AsyncRounds(
            *parts,
            most_bytes,
            job.replicas.put,
            on_arrival=lambda arrival: job.persist(
                lambda: job.store.record_arrival(job.lease, arrival)
            ),
        )

    async def _warn_of_metrics(self, result: StepResult) -> None:
        job = self._job
        for name, value in result.record["not_finite"].items():
            code = f"metric_not_finite:{name}"
            if code not in job.warned:
                message = (
                    f"the metric {name} is {value} at meta-iteration "
                    f"{result.record['iteration'] + 1}: "
                    "metrics leave it out, not_finite of the history has it; the tuning goes on"
                )
                warn = partial(job.store.warn, job.lease, "metric_not_finite", message)
                await job.persist(warn)
                job.warned.add(code)

    async def _meta_iteration(self, point: ResumePoint) -> ResumePoint:
        """Compute and commit one meta-iteration. Returns where the next one begins."""
        job = self._job
        result = await self._rounds.meta_iteration(point)
        if isinstance(result, Failure) and result.code in RECOVERABLE:
            return await self._rollbacks.roll_back(point, result)
        if isinstance(result, Failure):
            fail_or_retry(result)
        if isinstance(result, RollbackRequired):
            failure = Failure("no_descent", result.message, point.iteration)
            return await self._rollbacks.roll_back(point, failure)
        assert isinstance(result, StepResult)
        training = await self._training_runs.checkpoint(point.iteration + 1)
        elapsed_s = time.monotonic() - self._rounds.began
        step = commit_of(job, point.iteration, result, elapsed_s, training)
        # A commit may drop an artifact that the next meta-iteration writes again.
        if not (result.finished or isinstance(result.model, Artifact)):
            self._rounds.begin(step.next_state)
        status = await job.persist(lambda: job.store.commit(job.lease, step))
        job.progress = step.progress
        if job.phases:
            await self._keep_phases(elapsed_s)
        for code, message in result.warnings.items():
            if code not in job.warned:
                await job.persist(partial(job.store.warn, job.lease, code, message))
                job.warned.add(code)
        await self._warn_of_metrics(result)
        if result.finished:
            self._rounds.abandon()
            apply_control(status)
            await self._succeed(step.next_state, result.finished)
        apply_control(status, between_iterations=True)
        return step.next_state

    async def _keep_phases(self, first_iteration_s: float) -> None:
        job, phases = self._job, self._job.phases
        job.phases = {}
        named = {"queued": job.queued_s, "preflight": 0.0, "first_iteration": first_iteration_s}
        kept = StartPhases.model_validate(named | phases)
        await job.persist(lambda: job.store.keep_start_phases(job.lease, kept))

    async def _finished(self, point: ResumePoint) -> str | None:
        """As the function; an online job ends with a window that was measured."""
        job = self._job
        finished = _finished(point, job.spec)
        if finished != "patience" or job.spec.meta.mode != "online":
            return finished
        best = (await job.store.get(job.lease.job_id)).best
        return finished if best is not None and best.iteration + 1 == point.iteration else None

    async def _succeed(self, point: ResumePoint, finished: str) -> NoReturn:
        """Confirm the result, and end the job."""
        await self._confirmation.run(point)
        await request_retraining(self._job)
        raise JobReleased(Action.SUCCEED, finished, _FINISHED[finished])


def _finished(point: ResumePoint, spec: JobSpec) -> str | None:
    """Why the meta-iterations before `point` are all of the job; None if there are more."""
    if point.iteration >= spec.meta.iterations:
        return "iterations"
    patience = spec.meta.patience
    has_ended = patience is not None and point.scalars.get("stale", 0) >= patience
    return "patience" if has_ended else None


async def _code(store: Store, spec: JobSpec) -> bytes | None:
    problem = spec.problem
    return await store.code(problem.code) if problem.kind == "code" else None
