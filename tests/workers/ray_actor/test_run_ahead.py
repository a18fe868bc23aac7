"""A worker begins the next meta-iteration by itself, where nothing forbids it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from drmad_client.spec.job import JobSpec
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.ray_actor.actor import Replica
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


RESTART: dict[str, Any] = {
    "problem": {"data": {"name": "digits", "label_noise": 0.5}},
    "hyperparameters": [{"kind": "sample_weight"}],
    "training": {"steps": 10, "batch_size": 50},
    "hypergradient": {"method": "stored"},
    "meta": {"iterations": 5},
}
ONLINE: dict[str, Any] = RESTART | {
    "training": {"steps": 25, "batch_size": 50},
    "meta": {"mode": "online", "window": 5},
}


@pytest.mark.parametrize("spec", [RESTART, ONLINE], ids=["restart", "online"])
def test_what_a_worker_begins_by_itself_is_the_same_bit_for_bit(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = SimpleNamespace(get_node_id=lambda: "node")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: node)
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    actor: Any = Replica
    kind = actor.__ray_metadata__.modified_class
    accepted_spec = JobSpec.model_validate(spec).model_dump_json()

    def outcomes(goes_on: Sequence[bool]) -> list[StepResult]:
        worker = kind(accepted_spec, [0], 1.0, [], str(tmp_path), None)
        prepared = worker.prepare()
        state, begun, found = prepared.start, False, []
        for each in goes_on:
            if begun:
                found.append(worker.following_meta_iteration(each))
            else:
                asked = prepared.hyperparameters, 10**8, each
                found.append(worker.whole_meta_iteration(state, *asked))
            state, begun = found[-1].state, found[-1].goes_on
        assert [each.goes_on for each in found] == [*goes_on[:-1], False]
        return found

    one_by_one, ahead = outcomes([False] * 5), outcomes([True, True, False, True, True])
    for one, other in zip(one_by_one, ahead, strict=True):
        assert (one.state, one.hypergradient, one.model) == (
            other.state,
            other.hypergradient,
            other.model,
        )
        assert one.record["validation_loss"] == other.record["validation_loss"]
    assert ahead[-1].finished == "iterations"
