"""The meta-iterations of a job with one worker, each of which begins where the one before ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue
from threading import Thread

from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.ray_actor.messages import Failure, PackedState, RollbackRequired, StepResult

Outcome = StepResult | RollbackRequired | Failure
Compute = Callable[[PackedState], Outcome]


class RunAhead:
    """Computes meta-iterations one after the other, without a round trip between them.

    A meta-iteration that was accepted determines the state of the next one, which begins before the
    scheduler has read the outcome. It is at most one ahead of what was asked for. Nothing of it
    counts until it is asked for and committed.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Compute, PackedState, Future[Outcome]]] = SimpleQueue()
        self._begun: tuple[Compute, Future[Outcome]] | None = None
        # A pool's threads would keep the process until a meta-iteration ends.
        Thread(target=self._work, daemon=True, name="meta-iterations").start()

    def outcome(self, compute: Compute, state: PackedState, goes_on: bool) -> Outcome:
        """The outcome of the meta-iteration that begins at a state.

        Args:
            goes_on: whether the next one may begin at once.
        """
        self._begin(compute, state)
        return self.next_outcome(goes_on)

    def next_outcome(self, goes_on: bool) -> Outcome:
        """The outcome of the meta-iteration that began with the last outcome."""
        assert self._begun is not None
        compute, begun = self._begun
        found = begun.result()
        self._begun = None
        if not (goes_on and isinstance(found, StepResult) and _may_go_on(found)):
            return found
        self._begin(compute, found.state)
        return replace(found, goes_on=True)

    def _begin(self, compute: Compute, state: PackedState) -> None:
        future: Future[Outcome] = Future()
        self._begun = compute, future
        self._asked.put((compute, state, future))

    def _work(self) -> None:
        while True:
            compute, state, future = self._asked.get()
            try:
                future.set_result(compute(state))
            except BaseException as error:
                future.set_exception(error)


def _may_go_on(found: StepResult) -> bool:
    """A commit may drop an artifact that a meta-iteration which began before it writes again."""
    kept = (found.state.tensors, found.hypergradient, found.model)
    return not found.finished and not any(isinstance(each, Artifact) for each in kept)
