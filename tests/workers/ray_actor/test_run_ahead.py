"""A worker begins the next meta-iteration by itself, where nothing forbids it."""

from __future__ import annotations

from dataclasses import replace
from queue import SimpleQueue

import pytest

from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.ray_actor.messages import Failure, PackedState, RollbackRequired, StepResult
from drmad_workers.ray_actor.run_ahead import Outcome, RunAhead

START = PackedState(b"state 0", {})
ARTIFACT = Artifact("0" * 64, 1)


def accepted(number: int) -> StepResult:
    state = PackedState(f"state {number + 1}".encode(), {})
    return StepResult({}, state, b"gradient", b"model", None)


class Computations:
    """Meta-iterations with these outcomes, one after the other; the states that they begin at."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.begun: SimpleQueue[bytes] = SimpleQueue()
        self._outcomes = iter(outcomes)

    def __call__(self, state: PackedState) -> Outcome:
        assert isinstance(state.tensors, bytes)
        self.begun.put(state.tensors)
        return next(self._outcomes)


def test_the_next_meta_iteration_begins_at_the_new_state_before_it_is_asked_for() -> None:
    computations, ahead = Computations(*map(accepted, range(3))), RunAhead()
    first = ahead.outcome(computations, START, True)
    assert first == replace(accepted(0), goes_on=True)
    assert [computations.begun.get(timeout=20) for _ in range(2)] == [b"state 0", b"state 1"]
    assert ahead.next_outcome(False) == accepted(1)
    assert computations.begun.empty()
    assert ahead.outcome(computations, replace(START, tensors=b"other"), False) == accepted(2)
    assert computations.begun.get(timeout=20) == b"other"


@pytest.mark.parametrize(
    "outcome",
    [
        Failure("training_diverged", "The training diverged."),
        RollbackRequired("The loss rose."),
        replace(accepted(0), finished="iterations"),
        replace(accepted(0), model=ARTIFACT),
        replace(accepted(0), hypergradient=ARTIFACT),
        replace(accepted(0), state=PackedState(ARTIFACT, {})),
    ],
    ids=["failure", "rollback", "finished", "large model", "large hypergradient", "large state"],
)
def test_nothing_follows_an_outcome_that_the_scheduler_has_to_see_first(outcome: Outcome) -> None:
    computations, ahead = Computations(outcome, accepted(1)), RunAhead()
    assert ahead.outcome(computations, START, True) == outcome
    assert ahead.outcome(computations, replace(START, tensors=b"asked"), False) == accepted(1)
    assert [computations.begun.get(timeout=20) for _ in range(2)] == [b"state 0", b"asked"]
    assert computations.begun.empty()
