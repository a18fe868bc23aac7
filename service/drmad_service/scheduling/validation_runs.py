"""Validations of hypergradients: taken from the store, run on workers beside the jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from redis.exceptions import RedisError

from drmad_client.records.job import JobError
from drmad_client.records.validation import ValidationReport
from drmad_service.cancellation import cancel_and_wait
from drmad_service.errors import JobNotFound, ResultNotFound
from drmad_service.scheduling.ray_cluster import ComputeCluster, RayLost
from drmad_service.scheduling.ray_errors import failure_of
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.scheduling.replica_group import runtime_options
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_service.store.validations import HeldValidation
from drmad_workers.ray_actor.messages import Failure, PackedState
from drmad_workers.ray_actor.validator import Validator

logger = logging.getLogger(__name__)

MOST_WORKERS = 16
"""Bounds the workers of a validation: each builds the problem anew."""


async def keep_validating(
    store: Store, settings: SchedulerSettings, cluster: ComputeCluster
) -> None:
    """Run every validation that fits beside the jobs, for ever."""
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            held = None
            with contextlib.suppress(RedisError, RayLost):
                capacity = await cluster.capacity()
                held = await store.next_validation(settings.lease_s, capacity, MOST_WORKERS)
            if held is None:
                await asyncio.sleep(settings.poll_s)
                continue
            fields = {"action": "validation_started", "job_id": held.job_id}
            logger.info("validates a hypergradient on %d workers", held.workers, extra=fields)
            task = asyncio.create_task(ValidationRun(store, settings, held).run())
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        await cancel_and_wait([*running])


class ValidationRun:
    """One held validation."""

    def __init__(self, store: Store, settings: SchedulerSettings, held: HeldValidation) -> None:
        self._store = store
        self._settings = settings
        self._held = held
        self._workers: list[Any] = []
        self._losses: dict[int, float | None] = {}
        self._total = 0
        self._next_report = 0.0

    async def run(self) -> None:
        """Run the validation to its end; release it if this scheduler stops."""
        try:
            outcome = await self._outcome()
            with contextlib.suppress(RedisError):
                await self._store.finish_validation(self._held, *self._progress(), outcome)
        except (_Lost, RedisError) as error:  # taken again once this scheduler's hold expires
            fields = {"job_id": self._held.job_id}
            logger.warning("stopped a validation: %r", error, extra=fields)
        except asyncio.CancelledError:
            with contextlib.suppress(RedisError):
                await self._store.keep_validation(self._held, *self._progress(), 0.0)
            raise
        finally:
            for worker in self._workers:
                with contextlib.suppress(RayError):
                    await asyncio.to_thread(ray.kill, worker)

    async def _outcome(self) -> ValidationReport | JobError | None:
        try:
            await self._start_workers()
            return await self._validated()
        except _Cancelled:
            return None
        except (JobNotFound, ResultNotFound) as error:
            return JobError(code="state_not_kept", message=str(error))
        except _Failed as failed:
            failure = failed.failure
            return JobError(code=failure.code, message=failure.message, traceback=failure.traceback)
        except RayError as error:
            failure = failure_of(error)
            return JobError(code=failure.code, message=failure.message)
        except (RedisError, _Lost):
            raise
        except Exception as error:
            logger.exception("could not validate a hypergradient")
            return JobError(code="internal_error", message=f"{type(error).__name__}: {error}")

    async def _start_workers(self) -> None:
        store, held, settings = self._store, self._held, self._settings
        job = await store.get(held.job_id)
        spec = job.begun
        asked = (await store.validation(held.job_id, held.id)).asked
        point = await store.validated_state(held)
        state = ray.put(PackedState(point.tensors, point.scalars))
        code = await store.code(spec.problem.code) if spec.problem.kind == "code" else None
        archive = ray.put(code)
        resources = spec.resources
        memory = 0 if resources.gpus else resources.memory_bytes or settings.replica_memory_bytes
        options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus} | runtime_options(spec)
        for node in [place.node for place in held.places for _ in range(place.replicas)]:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            self._workers.append(
                Validator.options(scheduling_strategy=there, **options).remote(  # type: ignore[attr-defined]
                    spec.model_dump_json(),
                    asked.model_dump_json(),
                    state,
                    resources.cpus,
                    [str(root) for root in settings.data_roots],
                    str(settings.data_dir),
                    archive,
                    memory,
                )
            )

    async def _validated(self) -> ValidationReport:
        """Differentiate on one worker, retrain on all of them, and judge."""
        first = self._workers[0]
        counted, known = first.differentiate.remote()
        self._total = _result(await self._answer(future_of(counted)))
        await self._retrain(known)
        losses = [self._losses[number] for number in range(self._total)]
        judge = self._workers[0]
        report = _result(await self._answer(future_of(judge.report.remote(known, losses))))
        return ValidationReport.model_validate(report)

    async def _retrain(self, known: Any) -> None:
        """Every retraining once; what a lost worker had begun is done by another one."""
        missing = list(range(self._total))[::-1]
        free = list(self._workers)
        running: dict[asyncio.Future[Any], tuple[Any, int]] = {}
        while missing or running:
            while missing and free:
                worker, number = free.pop(), missing.pop()
                running[future_of(worker.retrain.remote(known, number))] = worker, number
            await asyncio.wait(
                running, timeout=self._settings.poll_s, return_when=asyncio.FIRST_COMPLETED
            )
            for future in [each for each in running if each.done()]:
                worker, number = running.pop(future)
                try:
                    self._losses[number] = _result(future.result())
                except RayError:
                    self._workers.remove(worker)
                    missing.append(number)
                    if not self._workers:
                        raise
                    continue
                free.append(worker)
            await self._report_progress()

    async def _answer(self, future: asyncio.Future[Any]) -> Any:
        while not future.done():
            await asyncio.wait([future], timeout=self._settings.poll_s)
            await self._report_progress()
        return future.result()

    async def _report_progress(self) -> None:
        """Tell the store, at most five times in a lease, and stop when it says so."""
        if time.monotonic() < self._next_report:
            return
        hold_s = self._settings.lease_s
        self._next_report = time.monotonic() + min(1.0, hold_s / 5.0)
        status = "running"
        with contextlib.suppress(RedisError):
            status = await self._store.keep_validation(self._held, *self._progress(), hold_s)
        if status == "cancelling":
            raise _Cancelled
        if status != "running":
            raise _Lost

    def _progress(self) -> tuple[int, int]:
        return len(self._losses), self._total


class _Cancelled(Exception):
    """A client cancelled the validation."""


class _Lost(Exception):
    """Another scheduler has taken the validation, or its job was deleted."""


class _Failed(Exception):
    """A worker returned a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _result(answer: Any) -> Any:
    if isinstance(answer, Failure):
        raise _Failed(answer)
    return answer
