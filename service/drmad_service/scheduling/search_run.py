"""The search before the first meta-iteration: trials in parallel on the actors of the replicas.

Trial n is proposed from the outcomes of the trials up to n - K, where K is the number of actors. K
trials run at once, and a search that was interrupted continues with the same trials.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.records.job import Progress
from drmad_client.records.search import Start, Trial
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.search import SearchSpec, own_values
from drmad_client.spec.replicas import ReplicasSpec
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.store import Lease, Store
from drmad_workers.ray_actor.messages import Failure, TrialResult


class SearchFailed(Exception):
    """The job cannot start: a trial failed, or no trial gave a finite validation loss."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Search:
    """Runs the missing trials of one job."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        spec: JobSpec,
        progress: Progress,
        actors: list[Any],
        poll_s: float,
        persist: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    ) -> None:
        """`persist` repeats a request to the store until it is executed."""
        assert spec.search is not None
        self._store = store
        self._lease = lease
        self._spec = spec
        self._search: SearchSpec = spec.search
        self.progress = progress
        self._actors = actors
        self._poll_s = poll_s
        self._persist = persist
        self._known: dict[int, Trial] = {}
        self._running: dict[asyncio.Future[Any], tuple[int, Any, dict[str, Any], float]] = {}

    async def run(self, poll: Callable[[], Awaitable[JobStatus]]) -> Start | None:
        """Run the missing trials. Returns the best; None when the job pauses and no trial runs.

        Args:
            poll: applies control requests and returns the job's status; called every `poll_s`.
        Raises:
            SearchFailed; CallFailed, when a replica was lost; what `poll` raises.
        """
        try:
            return await self._run(poll)
        finally:
            for future in self._running:
                future.cancel()

    async def _run(self, poll: Callable[[], Awaitable[JobStatus]]) -> Start | None:
        total = self._search.trials
        page = await self._store.trials(self._lease.job_id, limit=total)
        self._known = {trial.number: trial for trial in page.data}
        missing = [number for number in range(total) if number not in self._known]
        free = list(self._actors)
        status = await poll()
        while missing or self._running:
            pausing = status is JobStatus.PAUSING
            if pausing and not self._running:
                return None
            while missing and free and not pausing and self._may_be_proposed(missing[0]):
                if await self._start_trial(missing[0], free[0]):
                    free.pop(0)
                missing.pop(0)
            if self._running:
                done, _ = await asyncio.wait(
                    self._running, timeout=self._poll_s, return_when=asyncio.FIRST_COMPLETED
                )
                for future in done:
                    free.append(await self._finish_trial(future))
            status = await poll()
        return self._best()

    def _may_be_proposed(self, number: int) -> bool:
        return all(before in self._known for before in range(number - len(self._actors) + 1))

    async def _start_trial(self, number: int, actor: Any) -> bool:
        """Start a trial on an actor. Returns False when the spec refuses its values."""
        values = await self._values(number, actor)
        try:
            spec = self._spec.started_from(values)
        except ValidationError as error:
            (first, *_) = field_errors(error.errors(), {})
            refused = TrialResult(None, {}, f"{first.path}: {first.message}")
            await self._record(number, values, "refused", 0.0, refused)
            return False
        spec = spec.model_copy(
            update={"replicas": ReplicasSpec()}
        )  # a trial trains on all the data
        ref = actor.trial.remote(spec.model_dump_json())
        future = future_of(ref)
        self._running[future] = (number, actor, values, time.monotonic())
        return True

    async def _values(self, number: int, actor: Any) -> dict[str, Any]:
        """The first trial takes the values of the spec itself, if they lie in the ranges."""
        fields, search = self._spec.model_dump(), self._search
        own = own_values(fields, search)
        if number == 0 and own is not None:
            return own
        usable = range(number - len(self._actors) + 1)
        known = [
            (self._known[n].values, self._known[n].validation_loss)
            for n in usable
            if self._known[n].state != "refused"
        ]
        parameters = fields["search"]["parameters"]
        ref = actor.propose.remote(parameters, search.sampler, self._spec.seed, number, known)
        values: dict[str, Any] = await future_of(ref)
        return values

    async def _finish_trial(self, future: asyncio.Future[Any]) -> Any:
        """Record the outcome of a trial. Returns the actor, which is free again."""
        number, actor, values, began = self._running.pop(future)
        result: TrialResult | Failure = future.result()
        seconds = time.monotonic() - began
        if isinstance(result, Failure):
            raise SearchFailed(result)
        state = "diverged" if result.validation_loss is None else "done"
        await self._record(number, values, state, seconds, result)
        return actor

    async def _record(
        self,
        number: int,
        values: dict[str, Any],
        state: str,
        seconds: float,
        result: TrialResult,
    ) -> None:
        record = {
            "number": number,
            "state": state,
            "values": values,
            "validation_loss": result.validation_loss,
            "metrics": {n: m for n, m in result.metrics.items() if math.isfinite(m)},
            "seconds": seconds,
            "message": result.message,
        }
        done = len(self._known) + 1
        self.progress = self.progress.model_copy(update={"trials": done, "phase": "search"})
        await self._persist(lambda: self._store.add_trial(self._lease, record, self.progress))
        self._known[number] = Trial.model_validate(record | {"at": time.time()})

    def _best(self) -> Start:
        finite = [t for t in self._known.values() if t.validation_loss is not None]
        if not finite:
            last = self._known[max(self._known)]
            message = (
                f"none of the {len(self._known)} trials of the search gave a finite validation "
                f"loss ({last.message}): narrow search.parameters"
            )
            raise SearchFailed(Failure("search_failed", message))
        best = min(finite, key=lambda t: (t.validation_loss, t.number))
        assert best.validation_loss is not None
        return Start(trial=best.number, values=best.values, validation_loss=best.validation_loss)
