"""Meta-iterations from the replicas of a job, in synchronous rounds or asynchronously."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.online import checkpoint_due
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.store import ResumePoint
from drmad_workers.ray_actor.messages import Failure, PackedState, RollbackRequired, StepResult

RoundOutcome = StepResult | RollbackRequired | Failure
OnArrival = Callable[[dict[str, Any]], Awaitable[None]]
"""Receives the fields of a drmad_client.records.job.Arrival."""


class WaitFor(Protocol):
    """Waits until `enough` of the futures are done, or all of them, while the job is polled."""

    def __call__(
        self, futures: Sequence[asyncio.Future[Any]], enough: int | None = None
    ) -> Awaitable[None]: ...


class Rounds(ABC):
    """Computes the meta-iterations of one job on its actors.

    Attributes:
        began: when the last meta-iteration began, by time.monotonic.
    """

    def __init__(
        self,
        spec: JobSpec,
        infos: list[dict[str, Any]],
        actors: Sequence[Any],
        wait_for: WaitFor,
        max_model_bytes: int,
        put: Callable[[Any], Any],
    ) -> None:
        """`put` stores a value once for several calls, see Replicas.put."""
        self._spec = spec
        self._infos = infos
        self._actors = actors
        self._wait_for = wait_for
        self._max_model_bytes = max_model_bytes
        self._put = put
        self._ticket = 0
        self.began = time.monotonic()

    @abstractmethod
    async def meta_iteration(self, point: ResumePoint) -> RoundOutcome:
        """Compute the meta-iteration that begins at `point`.

        Raises:
            CallFailed: a replica is lost.
        """

    def begin(self, point: ResumePoint) -> None:  # noqa: B027
        """Have the replicas begin the meta-iteration that `meta_iteration` will ask for.

        They compute it while the one before is committed. If that commit is lost, so is what they
        compute: new replicas take it again from the last commit, bit for bit.
        """

    def abandon(self) -> None:  # noqa: B027
        """Stop computations for meta-iterations that will not follow."""

    async def _outcome(self, ref: Any) -> RoundOutcome:
        outcome: RoundOutcome = await self._result(ref)
        return outcome

    async def _result(self, ref: Any) -> Any:
        future = future_of(ref)
        await self._wait_for([future])
        return future.result()

    def _next_ticket(self) -> int:
        self._ticket += 1
        return self._ticket


@dataclass(frozen=True)
class _Round:
    """A meta-iteration that the replicas compute.

    Attributes:
        iteration: its number.
        state: what it begins at; stored once, however many replicas there are.
        ticket: what `abandon` names.
        asked: of one actor the outcome, of several a failure and a result each.
    """

    iteration: int
    state: Any
    ticket: int
    asked: Sequence[Any]


class SyncRounds(Rounds):
    """One update from the results of all replicas, or of the first `wait_for` that answer."""

    _begun: _Round | None = None
    _goes_on = False

    def begin(self, point: ResumePoint) -> None:
        self._begun = self._ask(point)

    async def meta_iteration(self, point: ResumePoint) -> RoundOutcome:
        begun, self._begun = self._begun, None
        if begun is None or begun.iteration != point.iteration:
            begun = self._ask(point)
        if len(self._actors) == 1:
            outcome = await self._outcome(begun.asked[0])
            self._goes_on = isinstance(outcome, StepResult) and outcome.goes_on
            return outcome
        answers = [future_of(answer) for answer, _ in begun.asked]
        await self._wait_for(answers, self._spec.replicas.wait_for)
        idle, results = [], []
        for actor, answer, (_, result) in zip(self._actors, answers, begun.asked, strict=True):
            if not answer.done():
                actor.abandon.remote(begun.ticket)
                continue
            failure: Failure | None = answer.result()
            if failure is not None:
                for other in self._actors:
                    other.abandon.remote(begun.ticket)
                return failure
            idle.append(actor)
            results.append(result)
        step = idle[0].meta_step.remote(self._infos, begun.state, self._max_model_bytes, *results)
        return await self._outcome(step)

    def _ask(self, point: ResumePoint) -> _Round:
        self.began = time.monotonic()
        state, number = PackedState(point.tensors, point.scalars), point.iteration
        if len(self._actors) == 1:
            return _Round(number, state, 0, [self._ask_one(self._actors[0], state, number)])
        kept, ticket = self._put(state), self._next_ticket()
        asked = [actor.meta_iteration.remote(kept, number, ticket) for actor in self._actors]
        return _Round(number, kept, ticket, asked)

    def _ask_one(self, actor: Any, state: PackedState, number: int) -> Any:
        """Ask the only actor, which may have begun the meta-iteration already."""
        may_go_on = not checkpoint_due(self._spec, number + 1)
        if self._goes_on:
            return actor.following_meta_iteration.remote(may_go_on)
        whole = actor.whole_meta_iteration
        return whole.remote(state, self._infos, self._max_model_bytes, may_go_on)


@dataclass(frozen=True)
class _Flight:
    """A hypergradient that a replica computes, or that has arrived and is not applied yet."""

    number: int
    begun: int
    """Number of updates applied before the computation began."""
    ticket: int
    answer: asyncio.Future[Any]
    results: Any


class AsyncRounds(Rounds):
    """One update from every hypergradient as it arrives; K arrivals make a meta-iteration.

    A replica begins its next computation at once, with the current hyperparameters. The staleness
    of a hypergradient is the number of updates applied while it was computed. An update waits if
    it would make the work of another replica exceed the bound; no hypergradient is discarded.
    Update u starts draw u of weights and minibatches of its replica, so no draw is used twice,
    even after a crash has undone updates.
    """

    def __init__(self, *args: Any, on_arrival: OnArrival) -> None:
        super().__init__(*args)
        self._on_arrival = on_arrival
        self._flights: dict[int, _Flight] = {}

    async def meta_iteration(self, point: ResumePoint) -> RoundOutcome:
        self.began = time.monotonic()
        outcome = await self._arrivals(point)
        if not isinstance(outcome, StepResult):  # the computations began from a discarded state
            self.abandon()
        return outcome

    def abandon(self) -> None:
        for flight in self._flights.values():
            self._actors[flight.number].abandon.remote(flight.ticket)
        self._flights = {}

    async def _arrivals(self, point: ResumePoint) -> RoundOutcome:
        count, bound = len(self._actors), self._spec.replicas.bound
        begun = moved = self._put(PackedState(point.tensors, point.scalars))
        updates = point.iteration * count
        for number in range(count):
            if number not in self._flights:
                self._begin(number, moved, point.iteration, updates)
        results: list[Any] = []
        staleness: list[int] = []
        while len(results) < count:
            flight = next_to_apply([*self._flights.values()], updates, bound)
            if flight is None:
                running = [f.answer for f in self._flights.values() if not f.answer.done()]
                await self._wait_for(running, 1)
                continue
            failure: Failure | None = flight.answer.result()
            if failure is not None:
                return failure
            arrived = self._actors[flight.number]
            applied, moved = arrived.arrival.remote(self._infos, moved, flight.results)
            figures = await self._result(applied)
            if isinstance(figures, RollbackRequired | Failure):
                return figures
            results.append(flight.results)
            staleness.append(updates - flight.begun)
            updates += 1
            self._begin(flight.number, moved, point.iteration, updates)
            await self._on_arrival(figures | {"staleness": staleness[-1]})
        judged = self._actors[0].arrivals_step.remote(
            self._infos, begun, moved, self._max_model_bytes, staleness, *results
        )
        return await self._outcome(judged)

    def _begin(self, number: int, state: Any, iteration: int, updates: int) -> None:
        ticket = self._next_ticket()
        asked = self._actors[number].meta_iteration.remote(state, iteration, ticket, updates)
        answer, results = asked
        self._flights[number] = _Flight(number, updates, ticket, future_of(answer), results)


def next_to_apply(flights: Sequence[_Flight], updates: int, bound: int) -> _Flight | None:
    """The arrival to apply next: the oldest one, or None when every arrival must wait.

    An arrival waits when the others could then no longer all be applied with a staleness of at
    most `bound`, even if they arrived one after the other in the order in which they began.
    """
    for flight in sorted(flights, key=lambda flight: (flight.begun, flight.number)):
        others = sorted(other.begun for other in flights if other is not flight)
        in_time = all(updates + 1 + place - begun <= bound for place, begun in enumerate(others))
        if in_time and flight.answer.done():
            return flight
    return None
