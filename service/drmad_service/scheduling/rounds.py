"""How the replicas of a job compute a meta-iteration: in rounds, or each as it arrives."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import ray

from drmad_client.spec.job import JobSpec
from drmad_service.store import ResumePoint
from drmad_workers.ray_actor.messages import Failure, PackedState, RollbackRequired, StepResult

Future = TypeVar("Future", bound="asyncio.Future[Any]")
RoundOutcome = StepResult | RollbackRequired | Failure
Tell = Callable[[dict[str, Any]], Awaitable[None]]
"""Given the fields of a drmad_client.records.job.Arrival."""


class Attend(Protocol):
    """Waits until `enough` of the references are there, or all; attends to the job meanwhile."""

    def __call__(
        self, futures: Sequence[asyncio.Future[Any]], enough: int | None = None
    ) -> Awaitable[None]: ...


class Rounds(ABC):
    """Computes the meta-iterations of one job with the replicas that it is given."""

    def __init__(
        self,
        spec: JobSpec,
        infos: list[dict[str, Any]],
        actors: Sequence[Any],
        attend: Attend,
        max_model_bytes: int,
    ) -> None:
        self._spec = spec
        self._infos = infos
        self._actors = actors
        self._attend = attend
        self._max_model_bytes = max_model_bytes
        self._ticket = 0

    @abstractmethod
    async def meta_iteration(self, point: ResumePoint) -> RoundOutcome:
        """Compute the meta-iteration that begins at this point.

        Raises:
            RayError: a replica is lost.
        """

    async def _outcome(self, ref: Any) -> RoundOutcome:
        outcome: RoundOutcome = await self._result(ref)
        return outcome

    async def _result(self, ref: Any) -> Any:
        future = _future(ref)
        await self._attend([future])
        return future.result()

    def _next_ticket(self) -> int:
        self._ticket += 1
        return self._ticket


class SyncRounds(Rounds):
    """One update from all replicas, or from the first `wait_for` that answer."""

    async def meta_iteration(self, point: ResumePoint) -> RoundOutcome:
        begun = PackedState(point.tensors, point.scalars)
        if len(self._actors) == 1:
            whole = self._actors[0].whole_meta_iteration
            ref = whole.remote(begun, point.iteration, self._infos, self._max_model_bytes)
            return await self._outcome(ref)
        state = ray.put(begun)  # once, however many replicas there are
        ticket = self._next_ticket()
        asked = [a.meta_iteration.remote(state, point.iteration, ticket) for a in self._actors]
        answers = [_future(answer) for answer, _ in asked]
        await self._attend(answers, self._spec.replicas.wait_for)
        idle, results = [], []
        for actor, answer, (_, result) in zip(self._actors, answers, asked, strict=True):
            if not answer.done():
                actor.abandon.remote(ticket)
                continue
            failure: Failure | None = answer.result()
            if failure is not None:
                for other in self._actors:
                    other.abandon.remote(ticket)
                return failure
            idle.append(actor)
            results.append(result)
        step = idle[0].meta_step.remote(self._infos, state, self._max_model_bytes, *results)
        return await self._outcome(step)


@dataclass(frozen=True)
class _Flight:
    """What a replica computes now, or has computed and nobody has applied yet."""

    number: int
    begun: int
    """Updates that had been applied when it began."""
    ticket: int
    answer: asyncio.Future[Any]
    results: Any


class AsyncRounds(Rounds):
    """Every hypergradient is applied as it arrives; K arrivals make up a meta-iteration.

    A replica begins anew at once, with the hyperparameters as they are then. The staleness of its
    hypergradient is the number of updates applied while it was computed. No update is applied that
    would make another replica's work staler than the bound: it waits, and nothing is thrown away.
    Update u begins the run of weights and minibatches number u of its replica, so that none is
    drawn twice, whatever a crash has undone.
    """

    def __init__(self, *args: Any, tell: Tell) -> None:
        super().__init__(*args)
        self._tell = tell
        self._flights: dict[int, _Flight] = {}

    async def meta_iteration(self, point: ResumePoint) -> RoundOutcome:
        outcome = await self._arrivals(point)
        if not isinstance(outcome, StepResult):  # what is under way began where nobody goes on
            for flight in self._flights.values():
                self._actors[flight.number].abandon.remote(flight.ticket)
            self._flights = {}
        return outcome

    async def _arrivals(self, point: ResumePoint) -> RoundOutcome:
        count, bound = len(self._actors), self._spec.replicas.bound
        begun = moved = ray.put(PackedState(point.tensors, point.scalars))
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
                await self._attend(running, 1)
                continue
            failure: Failure | None = flight.answer.result()
            if failure is not None:
                return failure
            arrived = self._actors[flight.number]
            told, moved = arrived.arrival.remote(self._infos, moved, flight.results)
            figures = await self._result(told)
            if isinstance(figures, RollbackRequired | Failure):
                return figures
            results.append(flight.results)
            staleness.append(updates - flight.begun)
            updates += 1
            self._begin(flight.number, moved, point.iteration, updates)
            await self._tell(figures | {"staleness": staleness[-1]})
        judged = self._actors[0].arrivals_step.remote(
            self._infos, begun, moved, self._max_model_bytes, staleness, *results
        )
        return await self._outcome(judged)

    def _begin(self, number: int, state: Any, iteration: int, updates: int) -> None:
        ticket = self._next_ticket()
        asked = self._actors[number].meta_iteration.remote(state, iteration, ticket, updates)
        answer, results = asked
        self._flights[number] = _Flight(number, updates, ticket, _future(answer), results)


def next_to_apply(flights: Sequence[_Flight], updates: int, bound: int) -> _Flight | None:
    """Of those that have arrived the one begun first, unless it must wait for others.

    It must where the others could no longer all be applied with a staleness of at most `bound`,
    if they arrived one after the other in the order in which they began.
    """
    for flight in sorted(flights, key=lambda flight: (flight.begun, flight.number)):
        others = sorted(other.begun for other in flights if other is not flight)
        in_time = all(updates + 1 + place - begun <= bound for place, begun in enumerate(others))
        if in_time and flight.answer.done():
            return flight
    return None


def _future(ref: Any) -> asyncio.Future[Any]:
    """Of a reference."""
    return seen(asyncio.wrap_future(ref.future()))


def seen(future: Future) -> Future:
    """The future, whose failure nobody need ask for: a replica that was killed answers nobody."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
