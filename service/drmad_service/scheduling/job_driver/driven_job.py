"""The job of one lease, as the parts of its driver share it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

from redis.exceptions import RedisError

from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import JobRecord
from drmad_client.records.status import JobStatus
from drmad_service.scheduling.job_driver.outcomes import apply_control, fail
from drmad_service.scheduling.ray_cluster import ComputeCluster
from drmad_service.scheduling.replica_group import Replicas
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Lease, Store
from drmad_service.store.access.refusals import explained, refusal_of
from drmad_service.store.layout.state_machine import Action
from drmad_workers.ray_actor.messages import Failure

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_PAUSE_S = 0.1


class DrivenJob:
    """A held job: its spec, its replicas, its progress and the time spent on it.

    Attributes:
        spec: as submitted until the search ends, then with the values that the search found.
        infos: the hyperparameters, once a replica has built the problem.
        phases: seconds of each phase of the start, until they are kept.
        warnings: what every meta-iteration's record repeats, once the preflight has run.
        warned: the codes of the warnings that the job had before this lease.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        settings: SchedulerSettings,
        cluster: ComputeCluster,
        record: JobRecord,
        code: bytes | None,
    ) -> None:
        self.store = store
        self.lease = lease
        self.settings = settings
        self.cluster = cluster
        self.spec = record.begun
        self.progress = record.progress
        self.infos: list[HyperparameterInfo] = []
        self.warnings: list[str] = []
        self.warned = {doubt.code for doubt in record.warnings}
        self.phases: dict[str, float] = {}
        self.queued_s = _queued_s(record)
        self._code = code
        self._separated = record.not_batched is not None
        # Trials of a search run side by side on the actors.
        self.replicas = self._unplaced(batched=self.spec.search is None)
        self._spent_before_s = record.progress.spent_s
        self._began = time.monotonic()

    def restart_from(self, values: Mapping[str, Any]) -> None:
        """Replace the replicas by unplaced ones of the spec that starts from these values."""
        self.replicas.kill()
        self.spec = self.spec.started_from(values)
        self.replicas = self._unplaced()

    @property
    def asks_for_batches(self) -> bool:
        """Whether several replicas are to be batched, and nothing has spoken against it yet."""
        replicas = self.spec.replicas
        return replicas.batched == "auto" and replicas.count > 1 and not self._separated

    async def separate(self, reason: str) -> None:
        """Replace the replicas by unplaced ones with an actor each, now and after every resume."""
        await self.persist(lambda: self.store.keep_not_batched(self.lease, reason))
        self._separated = True
        self.replicas.kill()
        self.replicas = self._unplaced()

    def _unplaced(self, batched: bool = True) -> Replicas:
        """New replicas; `batched` allows what `replicas.batched` asks for."""
        spec = self.spec
        if not batched or self._separated:
            separate = spec.replicas.model_copy(update={"batched": "off"})
            spec = spec.model_copy(update={"replicas": separate})
        return self.cluster.replicas(spec, self._code, self.lease.job_id)

    def spent_s(self) -> float:
        """Seconds that a scheduler has driven the job, under this lease and earlier ones."""
        return self._spent_before_s + time.monotonic() - self._began

    def info_fields(self) -> list[dict[str, Any]]:
        return [info.model_dump() for info in self.infos]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within as a phase of the job's start, see StartPhases."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began

    def fail_if_overdue(self) -> None:
        """
        Raises:
            JobReleased: the job ran longer than its timeout_s.
        """
        limit_s = self.spec.timeout_s
        if limit_s is not None and self.spent_s() > limit_s:
            message = (
                f"the job ran longer than its timeout_s, {limit_s:g} s; extend it to continue from "
                "the last meta-iteration"
            )
            fail(Failure("timeout", message))

    async def persist(self, request: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request to the store until Redis executes it.

        The job keeps its replicas while Redis is away or refuses writes, and its message says what
        it waits for. The request must be idempotent: an answer can be lost although Redis executed
        the request.

        Raises:
            JobReleased: the job was cancelled or exceeded its timeout_s meanwhile, or Redis refuses
                this request whatever is done.
        """
        pause_s, said = _FIRST_PAUSE_S, ""
        while True:
            try:
                answer = await request()
                if said:
                    await self._say("")
                return answer
            except (RedisError, UnicodeError) as error:
                refusal = refusal_of(error)
                fields = {"job_id": self.lease.job_id}
                logger.warning("retries a request: %s", explained(error), extra=fields)
            if refusal is not None and not refusal.passes:
                fail(Failure(refusal.code, str(refusal)))
            if refusal is not None and said != str(refusal):
                said = str(refusal)
                await self._say(f"waits: {said}")
            await self._hear()
            await asyncio.sleep(pause_s)
            pause_s = min(2.0 * pause_s, self.settings.store.redis_pause_s)

    async def attempt(self, request: Callable[[], Awaitable[None]]) -> None:
        """Execute a request once Redis is there; do without it if Redis refuses."""
        while True:
            try:
                return await request()
            except (RedisError, UnicodeError) as error:
                fields = {"job_id": self.lease.job_id}
                logger.warning("omits a request: %s", explained(error), extra=fields)
                if refusal_of(error) is not None:
                    return None
            await asyncio.sleep(self.settings.store.redis_pause_s)

    async def end(self, action: Action, *rest: Any) -> None:
        """Record the transition with which the job is released, once Redis is there.

        Nothing can end this wait but another scheduler that takes the job.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self.store.act(self.lease, action, *rest)
                return
            except (RedisError, UnicodeError) as error:
                refusal = refusal_of(error)
                fields = {"job_id": self.lease.job_id}
                logger.warning("cannot release the job: %s", explained(error), extra=fields)
            if refusal is not None and not refusal.passes:  # what is said of the end is refused
                action, rest = Action.FAIL, (refusal.code, str(refusal))
            await asyncio.sleep(pause_s)
            pause_s = min(2.0 * pause_s, self.settings.store.redis_pause_s)

    async def _hear(self) -> None:
        """Apply a cancellation and the job's timeout_s while Redis takes no writes."""
        with contextlib.suppress(RedisError):
            apply_control(await self.store.status(self.lease))
        self.fail_if_overdue()

    async def _say(self, message: str) -> None:
        with contextlib.suppress(RedisError):
            await self.store.say(self.lease, message)


def _queued_s(record: JobRecord) -> float:
    """Seconds that the job was in the queue before its last claim."""
    queued = next((t for t in record.transitions[::-1] if t.status is JobStatus.QUEUED), None)
    if queued is None:
        return 0.0
    after = record.transitions[record.transitions.index(queued) + 1 :]
    return (after[0].at - queued.at).total_seconds() if after else 0.0
