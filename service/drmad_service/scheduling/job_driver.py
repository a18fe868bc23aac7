"""Drives one job: dispatch, update, persist, repeat.

Redis is the truth and Ray is disposable: whatever goes wrong here, the job goes on from its last
commit under the next lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

from ray.exceptions import RayError
from redis.exceptions import RedisError

from drmad_client.records.job import (
    Best,
    HyperparameterInfo,
    JobError,
    JobStatus,
    PreflightReport,
    Progress,
)
from drmad_client.spec.job import JobSpec
from drmad_service import logs, traces
from drmad_service.errors import ResultNotFound
from drmad_service.job_limits import too_many
from drmad_service.scheduling.control_requests import ControlRequests
from drmad_service.scheduling.ray_errors import LOSSES, failure_of
from drmad_service.scheduling.replica_group import ReplicaGroup, ray_capacity, runtime
from drmad_service.scheduling.rounds import AsyncRounds, Rounds, SyncRounds, seen
from drmad_service.scheduling.search_run import Search, SearchFailed
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, Lease, MetaIterationCommit, ResumePoint, Store
from drmad_service.store.state_machine import Action
from drmad_workers.ray_actor.failures import OUT_OF_MEMORY
from drmad_workers.ray_actor.messages import (
    Failure,
    PackedState,
    Prepared,
    ProgressReport,
    RollbackRequired,
    StepResult,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ROLLED_BACK = ("training_diverged", "hypergradient_diverged")
"""Failures of a replica that a smaller outer step may avoid."""
_MISTAKES = ("user_code", "problem_invalid")
"""Failures that no other numbers would avoid."""
_PREEMPTED = "makes room for a job of higher priority"
_TRUSTED = ("auto", "replay", "stored", "reversible", "forward")
"""Methods that are exact over the whole run, or measure by themselves."""
_FINISHED = {
    "iterations": "every meta-iteration asked for is done",
    "patience": "the validation loss no longer improves",
}


class _Ended(Exception):
    """The runner lets go of the job; carries what to write."""

    def __init__(
        self, action: Action, reason: str, message: str = "", error: JobError | None = None
    ) -> None:
        super().__init__(reason)
        self.told = action, reason, message, error


class _Lost(Exception):
    """A replica answered that it cannot go on, and another may; carries why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class JobDriver:
    """Drives the job of one lease, until it ends or the lease is lost."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        settings: SchedulerSettings,
        capacity: Capacity,
        wishes: ControlRequests,
    ) -> None:
        self._store = store
        self._wishes = wishes
        self._wish = wishes.of(lease.job_id)
        self._lease = lease
        self._settings = settings
        self._capacity = capacity
        self._infos: list[HyperparameterInfo] = []
        self._reports: dict[int, asyncio.Future[ProgressReport]] = {}
        self._looked = time.monotonic()
        self._ranked = self._looked
        self._failures = 0

    async def run(self) -> None:
        """Drive the job.

        Raises:
            LeaseLost: somebody else drives it now.
            RedisError: the store does not answer while the job is begun.
        """
        await self._store.status(self._lease)
        job = await self._store.get(self._lease.job_id)
        logs.tenant.set(job.tenant)
        self._spec: JobSpec = job.spec
        self._shown = job.progress
        self._is_checked = job.preflight is not None
        self._spent_s = job.progress.spent_s
        self._since = time.monotonic()
        roots = [str(root) for root in self._settings.data_roots]
        if job.start is not None:
            self._spec = self._spec.started_from(job.start.values)
        code = await self._code()
        uploads = str(self._settings.data_dir)
        self._make_replicas = partial(
            ReplicaGroup,
            data_roots=roots,
            uploads=uploads,
            code=code,
            memory_bytes=self._settings.replica_memory_bytes,
        )
        self._replicas = self._make_replicas(self._spec)
        try:
            self._heed(job.status, between_iterations=True)
            await self._drive()
        except _Ended as end:
            await self._last_lines()
            # What the job holds is free again before anybody reads that it has ended.
            self._replicas.kill()
            await self._reach(partial(self._store.act, self._lease, *end.told))
        finally:
            self._replicas.kill()

    async def _code(self) -> bytes | None:
        problem = self._spec.problem
        return await self._store.code(problem.code) if problem.kind == "code" else None

    async def _drive(self) -> None:
        point: ResumePoint | None = None
        while True:
            try:
                if point is None or not self._replicas.actors:
                    point = await self._start()
                    await self._measure(point)
                with traces.span("meta-iteration", self._traced(point)):
                    point = await self._meta_iteration(point)
                self._failures = 0
                await self._between_iterations()
            except RayError as error:
                failure = failure_of(error)
                if failure.code not in LOSSES:
                    self._fail(failure)
                await self._replica_lost(failure)
            except _Lost as lost:
                await self._last_lines()
                await self._replica_lost(lost.failure)

    async def _between_iterations(self) -> None:
        """Hear, at most once a poll, what an iteration that is shorter would end too early for."""
        now = time.monotonic()
        if now > self._looked + self._wishes.pace_s:
            self._heed(await self._look(), between_iterations=True)
        if now > self._ranked + self._wishes.pace_s:
            self._ranked = now
            if await self._reach(lambda: self._store.outranked(self._lease, self._capacity)):
                raise _Ended(Action.YIELD, "preempted", _PREEMPTED)

    def _traced(self, point: ResumePoint) -> dict[str, str | int]:
        return {"drmad.job_id": self._lease.job_id, "drmad.iteration": point.iteration}

    async def _place(self) -> None:
        """Have every replica placed."""
        places = await asyncio.to_thread(self._replicas.reserve)
        if places is not None:
            await self._attended([places], self._settings.start_timeout_s)
        await asyncio.to_thread(self._replicas.create)

    async def _search(self) -> None:
        """Find what the job starts from, in the places of its replicas."""
        assert self._spec.search is not None
        if not self._replicas.actors:
            await self._place()
        trials = self._spec.search.trials
        await self._check()
        message = f"searches where to start, {trials} trials"
        await self._store.act(self._lease, Action.RUN, "searching", message)
        search = Search(
            self._store,
            self._lease,
            self._spec,
            self._shown,
            self._replicas.actors,
            self._settings.poll_s,
        )

        async def look() -> JobStatus:
            search.progress = search.progress.model_copy(update={"spent_s": self._spent()})
            kept = {"trials": search.progress.trials, "spent_s": search.progress.spent_s}
            self._shown = self._shown.model_copy(update=kept)
            if await self._store.outranked(self._lease, self._capacity):
                raise _Ended(Action.YIELD, "preempted", _PREEMPTED)
            return await self._look()

        try:
            start = await search.run(look)
        except SearchFailed as error:
            self._blame(error.failure)
        self._shown = search.progress
        if start is None:
            self._heed(await self._store.status(self._lease), between_iterations=True)
            return  # it was asked to pause, and then to go on
        await self._store.start_from(self._lease, start)
        self._failures = 0
        self._replicas.kill()
        self._reports = {}
        self._spec = self._spec.started_from(start.values)
        self._replicas = self._make_replicas(self._spec)

    async def _start(self) -> ResumePoint:
        """Have every replica build the problem. Returns where the job goes on."""
        while self._spec.search is not None:
            await self._search()
        await self._place()
        prepared = await self._attended(
            [replica.prepare.remote() for replica in self._replicas.actors],
            self._settings.start_timeout_s + self._install_s(),
        )
        first: Prepared = prepared[0]
        self._infos = [HyperparameterInfo(**info) for info in first.hyperparameters]
        count = sum(math.prod(info.shape) for info in self._infos)
        if count > (most := self._settings.max_hyperparameters):
            message = too_many("hyperparameters", count, most)
            self._fail(Failure("too_many_hyperparameters", message))
        await self._check()
        self._rounds = self._new_rounds()
        point = await self._store.resume_point(self._lease.job_id)
        start = ResumePoint(0, first.start.tensors, first.start.scalars)
        await self._store.begin(self._lease, self._infos, None if point else start)
        point = point or start
        if point.iteration >= self._spec.meta.iterations:
            raise _Ended(Action.SUCCEED, "iterations", _FINISHED["iterations"])
        status = await self._store.act(self._lease, Action.RUN, "started")
        self._heed(status, between_iterations=True)
        return point

    def _install_s(self) -> float:
        return self._settings.install_timeout_s if runtime(self._spec) else 0.0

    async def _check(self) -> None:
        """Try the job in a few steps, once: mistakes come out before hours are spent on it.

        What goes wrong in the numbers alone is left to the first meta-iteration, which has means
        against it.
        """
        if self._is_checked:
            return
        answer = seen(asyncio.wrap_future(self._replicas.actors[0].preflight.remote().future()))
        await self._attend([answer])
        found: dict[str, Any] | Failure = answer.result()
        self._is_checked = True
        if isinstance(found, Failure):
            if found.code in _MISTAKES:
                self._fail(found)
            return
        report = PreflightReport.model_validate(found)
        left = 1.0 - self._shown.iteration / self._spec.meta.iterations
        self._shown = self._shown.model_copy(update={"remaining_s": left * report.job_seconds})
        await self._reach(lambda: self._store.keep_preflight(self._lease, report, self._shown))

    def _new_rounds(self) -> Rounds:
        parts = (self._spec, self._described(), self._replicas.actors, self._attend)
        if self._spec.replicas.mode == "sync":
            return SyncRounds(*parts, self._settings.max_model_bytes)
        return AsyncRounds(*parts, self._settings.max_model_bytes, tell=self._tell_arrival)

    async def _tell_arrival(self, arrival: dict[str, Any]) -> None:
        await self._store.tell_arrival(self._lease, arrival)

    async def _measure(self, point: ResumePoint) -> None:
        """Hold an approximate method against the exact one, once a job; warn of a poor one."""
        job_id = self._lease.job_id
        method = self._spec.hypergradient
        known = method.method in _TRUSTED and getattr(method, "horizon", None) is None
        if known or await self._store.fidelity_report(job_id):
            return
        state = PackedState(point.tensors, point.scalars)
        (report,) = await self._attended(
            [self._replicas.actors[0].fidelity.remote(state, point.iteration)]
        )
        if isinstance(report, Failure) and report.code == "user_code":
            self._fail(report)
        if isinstance(report, Failure):
            message = f"the method could not be held against the exact one: {report.message}"
            await self._store.keep_fidelity(self._lease, {"failure": message})
            await self._store.warn(self._lease, "fidelity_unknown", message)
            return
        await self._store.keep_fidelity(self._lease, report)
        (prediction,) = report["predictions"]
        if prediction["doubtful"]:
            cosine = prediction["figure"]["cosine"]
            found = "diverges" if cosine is None else f"has a cosine of {cosine:.2f}"
            await self._store.warn(
                self._lease,
                "fidelity_low",
                f"{method.method}'s hypergradient {found} to the exact one on "
                "this problem; hypergradient: {method: auto} chooses one that can be trusted",
            )

    async def _meta_iteration(self, point: ResumePoint) -> ResumePoint:
        """Compute and commit one meta-iteration. Returns where the next one begins."""
        began = time.monotonic()
        result = await self._rounds.meta_iteration(point)
        if isinstance(result, Failure) and result.code in _ROLLED_BACK:
            return await self._roll_back(point, result)
        if isinstance(result, Failure):
            self._blame(result)
        if isinstance(result, RollbackRequired):
            failure = Failure("no_descent", result.message, point.iteration)
            return await self._roll_back(point, failure)
        assert isinstance(result, StepResult)
        step = self._step(point.iteration, result, time.monotonic() - began)
        status = await self._reach(lambda: self._store.commit(self._lease, step))
        self._shown = step.progress
        if result.finished:
            raise _Ended(Action.SUCCEED, result.finished, _FINISHED[result.finished])
        self._heed(status, between_iterations=True)
        return step.next_state

    async def _roll_back(self, point: ResumePoint, failure: Failure) -> ResumePoint:
        """Go back to the best state with half the outer step, so many times in a row."""
        best = (await self._store.get(self._lease.job_id)).best
        if best is None:
            self._fail(failure)
        if point.scalars["rollbacks"] >= self._spec.meta.max_rollbacks:
            advice = (
                f"{failure.message}; {point.scalars['rollbacks']} rollbacks did not help: "
                "lower meta.learning_rate, or bound the hyperparameters (lower, upper)"
            )
            self._fail(Failure(failure.code, advice, failure.iteration, failure.step))
        try:
            kept, hypergradient = await self._store.kept_point(self._lease.job_id, best.iteration)
        except ResultNotFound:
            self._fail(failure)
        packed = (
            PackedState(point.tensors, point.scalars),
            PackedState(kept.tensors, kept.scalars),
        )
        worker, infos = self._replicas.actors[0], self._described()
        (state,) = await self._attended([worker.roll_back.remote(infos, *packed, hypergradient)])
        if isinstance(state, Failure):
            self._blame(state)
        again = ResumePoint(point.iteration, state.tensors, state.scalars)
        message = f"{failure.message}; goes back to meta-iteration {best.iteration}, half the step"
        status = await self._store.roll_back(self._lease, again, message)
        self._heed(status, between_iterations=True)
        return again

    def _described(self) -> list[dict[str, Any]]:
        return [info.model_dump() for info in self._infos]

    def _step(self, iteration: int, result: StepResult, elapsed_s: float) -> MetaIterationCommit:
        left = self._spec.meta.iterations - iteration - 1
        record = result.record
        return MetaIterationCommit(
            iteration=iteration,
            record=record | {"seconds": record["seconds"] | {"total": elapsed_s}},
            next_state=ResumePoint(iteration + 1, result.state.tensors, result.state.scalars),
            hypergradient=result.hypergradient,
            model=result.model,
            progress=Progress(
                iteration=iteration + 1,
                iterations=self._spec.meta.iterations,
                remaining_s=left * elapsed_s,
                trials=self._shown.trials,
                spent_s=self._spent(),
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
        """Wait for results, showing progress and hearing what the user wants meanwhile.

        Raises:
            _Ended: cancelled, out of time, not placed, or a replica could not be prepared.
            RayError, _Lost: a replica is lost.
        """
        futures = [seen(asyncio.wrap_future(ref.future())) for ref in refs]
        await self._attend(futures, timeout_s=timeout_s)
        results = [future.result() for future in futures]
        for result in results:
            if isinstance(result, Failure) and result.iteration is None:
                self._blame(result)
        return results

    async def _attend(
        self,
        futures: Sequence[asyncio.Future[Any]],
        enough: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Wait until so many futures are there, or all, and attend to the job meanwhile.

        Raises:
            _Ended: cancelled, out of time, or not placed.
            RayError: a replica is lost.
        """
        wanted = len(futures) if enough is None else enough
        deadline = time.monotonic() + timeout_s if timeout_s else None
        pending = set(futures)
        while len(futures) - len(pending) < wanted:
            look_at = self._looked + self._wishes.pace_s
            wish = asyncio.ensure_future(self._wish.wait())
            try:
                await asyncio.wait(
                    {*pending, wish},
                    timeout=max(0.0, look_at - time.monotonic()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                wish.cancel()
            done = {future for future in pending if future.done()}
            pending -= done
            for future in done:
                future.result()
            if time.monotonic() < look_at and not self._wish.is_set():
                continue
            await self._look()
            if deadline and time.monotonic() > deadline:
                count = self._spec.replicas.count
                message = f"{count} replicas were not ready within {timeout_s} s"
                raise _Ended(Action.YIELD, "not_placed", message)

    async def _look(self) -> JobStatus:
        """Pass on what the replicas report, and heed what became of the job."""
        self._looked = time.monotonic()
        self._wish.clear()
        progress = self._shown
        for number in range(len(self._replicas.actors)):
            report = self._reported(number)
            if report is not None:
                await self._keep_lines(number, report.lines)
            if report is not None and number == 0:
                update = {"phase": report.phase, "step": report.step, "steps": report.steps}
                progress = self._shown.model_copy(update=update)
        if progress == self._shown:
            status = await self._reach(lambda: self._store.status(self._lease))
        else:
            self._shown = progress
            status = await self._reach(lambda: self._store.progress(self._lease, progress))
        self._heed(status)
        limit_s = self._spec.timeout_s
        if limit_s is not None and self._spent() > limit_s:
            self._fail(
                Failure("timeout", f"spent more than timeout_s, {limit_s:g} s; extend goes on")
            )
        return status

    def _reported(self, number: int) -> ProgressReport | None:
        """What a replica said when it was last asked, once; asks it again."""
        asked = self._reports.get(number)
        if asked is not None and not asked.done():
            return None
        answer = self._replicas.actors[number].report.remote().future()
        self._reports[number] = seen(asyncio.wrap_future(answer))
        with contextlib.suppress(RayError):  # its result, awaited elsewhere, tells
            return asked.result() if asked is not None else None
        return None

    async def _last_lines(self) -> None:
        """Keep what the replicas printed since they were last asked, if they still answer."""
        for _ in range(2):  # the answer that is on its way may be older than the last line
            if self._reports:
                await asyncio.wait(self._reports.values(), timeout=self._settings.last_lines_s)
            for number in range(len(self._replicas.actors)):
                report = self._reported(number)
                await self._keep_lines(number, report.lines if report else [])

    async def _keep_lines(self, number: int, lines: Sequence[str]) -> None:
        if lines:
            replica = self._replicas.first(number)
            await self._reach(lambda: self._store.log(self._lease, replica, lines))

    async def _reach(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the store answers, once it does: no replica is lost because Redis is away or full.

        For what may be asked twice: an answer can be lost although the store did as it was asked.
        """
        pause_s = 0.1
        while True:
            try:
                return await ask()
            except RedisError as error:
                fields = {"job_id": self._lease.job_id}
                logger.warning("Redis does not take what is written: %s", error, extra=fields)
            await asyncio.sleep(pause_s)
            pause_s = min(2.0 * pause_s, self._settings.store.redis_pause_s)

    def _heed(self, status: JobStatus, between_iterations: bool = False) -> None:
        if status is JobStatus.CANCELLING:
            raise _Ended(Action.YIELD, "cancelled", "cancelled by its user")
        if status is JobStatus.PAUSING and between_iterations:
            raise _Ended(Action.YIELD, "paused", "paused by its user")

    def _spent(self) -> float:
        return self._spent_s + time.monotonic() - self._since

    async def _replica_lost(self, loss: Failure) -> None:
        """Begin the meta-iteration again with new replicas, a bounded number of times in a row.

        Raises:
            RayLost: all of Ray is gone; that is no failure of this job's replicas.
        """
        self._replicas.kill()
        self._reports = {}
        await ray_capacity(self._settings)
        self._failures += 1
        if self._failures > self._spec.retry.replica_failures:
            message = f"lost a replica {self._failures} times in a row: {loss.message}"
            self._fail(Failure(loss.code, message, loss.iteration))
        fields = {"job_id": self._lease.job_id, "cause": loss.message}
        logger.warning("a replica was lost", extra=fields)
        await self._store.warn(
            self._lease, "replica_lost", f"begins the meta-iteration again: {loss.message}"
        )
        pause_s = self._settings.retry_s * 2.0 ** min(self._failures - 1, 16)
        again_at = time.monotonic() + min(pause_s, self._settings.longest_retry_s)
        while time.monotonic() < again_at:
            await asyncio.sleep(self._settings.poll_s)
            await self._look()

    def _blame(self, failure: Failure) -> NoReturn:
        """A replica's failure fails the job, but for a lack of memory: that counts as a loss."""
        if failure.code == OUT_OF_MEMORY:
            raise _Lost(failure)
        self._fail(failure)

    def _fail(self, failure: Failure) -> NoReturn:
        error = JobError(
            code=failure.code,
            message=failure.message,
            iteration=failure.iteration,
            step=failure.step,
            traceback=failure.traceback,
        )
        raise _Ended(Action.FAIL, failure.code, failure.message, error)
