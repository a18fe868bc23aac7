"""The proofs together cost no more than a meta-iteration, and say what was shortened."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drmad_workers import spec_adapter
from drmad_workers.preflight import proofs as preflight_proofs
from drmad_workers.preflight.proofs.hypergradient import cost
from drmad_workers.preflight.proofs.plan import (
    GROUPS,
    MIN_GROUPS,
    MIN_REPEATS,
    MIN_STEPS,
    PREPARATION,
    REPEAT,
    REPEATS,
    STEPS,
    TRAINED_STEP,
    of_products,
    plan,
)
from tests.workers.preflight.proofs.jobs import L2, Calls, job, net, proofs, stated


@given(st.integers(0, 5000), st.integers(1, 100), st.integers(1, 60), st.integers(1, 6))
def test_the_parts_are_no_more_than_the_whole(
    gradients: int, steps: int, parameters: int, count: int
) -> None:
    found = plan(gradients, steps, parameters, count)
    first = PREPARATION + REPEAT * found.repeats + TRAINED_STEP * found.steps
    if gradients >= PREPARATION + REPEAT * MIN_REPEATS + TRAINED_STEP * MIN_STEPS:
        assert first + found.for_products + found.for_trainings <= gradients
    assert found.groups == 0 or min(MIN_GROUPS, parameters) <= found.groups <= GROUPS
    assert found.steps <= min(steps, STEPS)
    if found.for_products:
        assert of_products(found.groups + count) == found.for_products


@given(st.integers(200, 5000), st.integers(3, 100))
def test_every_proof_runs_where_a_meta_iteration_takes_hundreds_of_gradients(
    gradients: int, steps: int
) -> None:
    found = plan(gradients, steps, 60, 1)
    assert found.groups >= MIN_GROUPS
    assert cost(2, found.steps) <= found.for_trainings


def test_a_small_model_is_proved_in_full() -> None:
    found = plan(2000, 100, 60, 2)
    assert (found.repeats, found.steps, found.groups) == (REPEATS, STEPS, GROUPS)
    assert not found.notes


class Counted:
    """Counts the gradients in float64 that a model's training is asked for."""

    def __init__(self) -> None:
        self.gradients = 0

    def __call__(self, module: Calls, inputs: Tensor) -> Tensor:
        if module.training and torch.is_grad_enabled():
            self.gradients += inputs.dtype == torch.float64
        return inputs.tanh()


SKIPPED = {
    40: {"second_derivatives", "hypergradient"},
    110: {"hypergradient"},
    200: set[str](),
    450: set[str](),
}


@pytest.mark.parametrize("gradients", SKIPPED)
def test_the_gradients_of_all_proofs_are_no_more_than_they_may_be(
    gradients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_proofs, "affordable", lambda tuner, method: gradients)
    counted = Counted()
    found = proofs(stated(net(Calls(counted))), job(L2))
    assert 0 < counted.gradients <= gradients
    skipped = SKIPPED[gradients]
    assert {name for name, proof in found.items() if proof.result != "passed"} == skipped
    for name in skipped:
        assert found[name].result == "skipped"
        assert "gradients, more than the proofs before it leave" in found[name].detail
    assert "steps instead of 20, because all proofs" in found["training"].detail


def test_what_proofs_may_cost_grows_with_the_steps_and_the_factor_of_the_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where every call takes a second, of the engine's steps and of plain gradients alike."""
    monkeypatch.setattr(preflight_proofs, "quickest", lambda work, device: 1.0)
    found = []
    for method, steps in (("stored", 100), ("replay", 100), ("stored", 400)):
        spec = job(L2, hypergradient={"method": method}, steps=steps)
        tuner = spec_adapter.tuner(spec, built=stated())
        own = spec_adapter.method(spec.hypergradient)
        found.append(preflight_proofs.affordable(tuner, own))
    assert found == [150, 200, 600]
