"""Runs beside jobs: taken from the store, run on workers that no job needs, held and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError

from drmad_client.records.job import JobError
from drmad_client.spec.job import JobSpec
from drmad_service.errors import JobNotFound, ResultNotFound, RunLost
from drmad_service.ray_driver.connection import CallFailed, RayDriver, RayLost
from drmad_service.scheduling.printed_lines import (
    PrintedLines,
    Worker,
    lines_of,
    request_remains,
)
from drmad_service.scheduling.replica_group import runtime_options
from drmad_service.settings import SchedulerSettings
from drmad_service.store import ResumePoint, Store
from drmad_service.store.side_runs.base import HeldRun
from drmad_workers.ray_actor.messages import Failure, PackedState

logger = logging.getLogger(__name__)


class SideRunDriver(ABC):
    """One held run: starts its workers, gives them the training runs, and keeps the outcome."""

    def __init__(
        self, store: Store, settings: SchedulerSettings, held: HeldRun, driver: RayDriver
    ) -> None:
        self._store = store
        self._settings = settings
        self._held = held
        self._driver = driver
        self._workers: list[Any] = []
        self._processes: list[Worker] = []
        self._printed = PrintedLines()
        self._unlogged: list[tuple[str, Sequence[str]]] = []
        self._done: dict[int, Any] = {}
        self._total = 0
        self._reported = 0
        self._next_report = 0.0

    @abstractmethod
    async def _computed(self) -> Mapping[str, Any]:
        """Compute on started workers; the fields of the outcome."""

    @abstractmethod
    async def _start(self) -> None:
        """Start the workers, see `_start_workers`."""

    async def run(self) -> None:
        """Run to the end; release the run if this scheduler stops."""
        try:
            outcome = await self._outcome()
            await self._collect_trailing_lines()
            with contextlib.suppress(RedisError):
                await self._store.finish_run(self._held, *self._progress(), outcome)
        except (RunLost, RedisError, RayLost) as error:
            # Some scheduler takes it again, once the hold of this one expires.
            fields = {"job_id": self._held.job_id}
            logger.warning("stopped a %s: %r", self._held.kind, error, extra=fields)
        except asyncio.CancelledError:
            with contextlib.suppress(RedisError):
                await self._store.keep_run(self._held, *self._progress(), 0.0, self._done)
            raise
        finally:
            for process in self._processes:
                self._driver.kill(process.actor)

    async def _outcome(self) -> Mapping[str, Any] | JobError | None:
        try:
            await self._start()
            self._done = await self._store.finished_parts(self._held)
            self._reported = len(self._done)
            try:
                return await self._computed()
            except CallFailed:
                await self._collect_remains(self._processes)
                raise
        except _Cancelled:
            return None
        except (JobNotFound, ResultNotFound) as error:
            return JobError(code="state_not_kept", message=str(error))
        except WorkerFailed as failed:
            failure = failed.failure
            return JobError(code=failure.code, message=failure.message, traceback=failure.traceback)
        except CallFailed as error:
            failure = error.failure
            return JobError(code=failure.code, message=failure.message)
        except (RedisError, RunLost, RayLost):
            raise
        except Exception as error:
            logger.exception("a %s failed", self._held.kind)
            return JobError(code="internal_error", message=f"{type(error).__name__}: {error}")

    async def _start_workers(
        self, kind: str, spec: JobSpec, asked: str, point: ResumePoint | None
    ) -> None:
        """Start the reserved workers: actors of a class, by its name, that SideWorker is."""
        settings = self._settings
        state = None
        if point is not None:
            state = self._driver.put(PackedState(point.tensors, point.scalars))
        code = None
        if spec.problem.kind == "code":
            code = await self._store.code(spec.problem.code)
        archive = self._driver.put(code)
        resources = spec.resources
        memory = 0 if resources.gpus else resources.memory_bytes or settings.replica_memory_bytes
        options = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_concurrency": 2,  # one thread computes, the other reports
        } | runtime_options(spec)
        nodes = [place.node for place in self._held.places for _ in range(place.replicas)]
        for number, node in enumerate(nodes):
            output = secrets.token_hex(8)
            actor = self._driver.create(
                kind,
                options,
                ("node", node),
                spec.model_dump_json(),
                asked,
                state,
                resources.cpus,
                [str(root) for root in settings.data_roots],
                str(settings.data_dir),
                archive,
                memory,
                settings.job_artifacts(self._held.job_id),
                output,
            )
            source = f"{self._held.kind} {number}"
            self._processes.append(Worker(actor, node, output, source))
        self._workers = [process.actor for process in self._processes]

    async def _run_all(self, begin: Callable[[Any, int], asyncio.Future[Any]]) -> None:
        """Every training run once; what a lost worker had begun is done by another one.

        Those that an earlier scheduler finished are not done again.


        Args:
            begin: (worker, number) -> the future of the result.
        """
        missing = [number for number in range(self._total) if number not in self._done][::-1]
        free = list(self._workers)
        running: dict[asyncio.Future[Any], tuple[Any, int]] = {}
        while missing or running:
            while missing and free:
                worker, number = free.pop(), missing.pop()
                running[begin(worker, number)] = worker, number
            await asyncio.wait(
                running, timeout=self._settings.poll_s, return_when=asyncio.FIRST_COMPLETED
            )
            for future in [each for each in running if each.done()]:
                worker, number = running.pop(future)
                try:
                    self._done[number] = result_of(future.result())
                except CallFailed:
                    self._workers.remove(worker)
                    missing.append(number)
                    if not self._workers:
                        raise
                    await self._collect_remains([p for p in self._processes if p.actor is worker])
                    continue
                free.append(worker)
            await self._report_progress()

    async def _answer(self, future: asyncio.Future[Any]) -> Any:
        while not future.done():
            await asyncio.wait([future], timeout=self._settings.poll_s)
            await self._report_progress()
        return result_of(future.result())

    async def _report_progress(self) -> None:
        """Tell the store, at most five times in a lease, and stop when it says so."""
        if time.monotonic() < self._next_report:
            return
        await self._collect_lines()
        hold_s = self._settings.lease_s
        self._next_report = time.monotonic() + min(1.0, hold_s / 5.0)
        status = "running"
        with contextlib.suppress(RedisError):
            news = self._done if len(self._done) != self._reported else None
            status = await self._store.keep_run(self._held, *self._progress(), hold_s, news)
            self._reported = len(self._done)
        if status == "cancelling":
            raise _Cancelled
        if status != "running":
            raise RunLost(f"{self._held.id} is {status}")

    async def _collect_lines(self) -> None:
        """Log what the workers printed since their last reports, as far as these have arrived."""
        await self._log_all()
        if self._unlogged:  # a worker keeps its lines, and says how many it leaves out
            return
        for process in self._processes:
            report = self._printed.take(process)
            if report is not None and report.lines:
                self._unlogged.append((process.source, report.lines))
        await self._log_all()

    async def _collect_trailing_lines(self) -> None:
        """Log the lines printed since the last reports, of the workers that still answer."""
        for _ in range(2):  # the report on its way may be older than the last line
            await self._printed.arrive(self._settings.last_lines_s)
            await self._collect_lines()

    async def _collect_remains(self, ended: Sequence[Worker]) -> None:
        """Log what workers that have ended printed since their last reports."""
        self._processes = [process for process in self._processes if process not in ended]
        remains = request_remains(self._driver, ended, self._printed.read)
        try:
            for worker, lines in await lines_of(remains, self._settings, self._report_progress):
                self._unlogged.append((worker.source, lines))
            await self._log_all()
        finally:
            for each in remains:
                self._driver.kill(each.reader)

    async def _log_all(self) -> None:
        with contextlib.suppress(RedisError):
            while self._unlogged:
                await self._store.log_of_run(self._held, *self._unlogged[0])
                del self._unlogged[0]

    def _progress(self) -> tuple[int, int]:
        return len(self._done), self._total


class _Cancelled(Exception):
    """A client cancelled the run."""


class WorkerFailed(Exception):
    """A worker returned a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def result_of(answer: Any) -> Any:
    """The answer of a worker.

    Raises:
        WorkerFailed: it is a failure.
    """
    if isinstance(answer, Failure):
        raise WorkerFailed(answer)
    return answer
