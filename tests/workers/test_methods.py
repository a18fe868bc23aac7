"""The methods beside shortcut and replay: exact ones against each other, the rest by formula."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drmad_workers import (
    L1,
    L2,
    CustomTensor,
    InitScale,
    LearningRate,
    Method,
    Momentum,
    OneStep,
    ProblemError,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
)
from drmad_workers.hyperparameters import Kind
from tests.workers.small import largest_difference, mixing_problem, shaken, small_problem, tuner_of

EXACT: list[Method] = [Stored()]
TRAINING = TrainingConfig("damped_sgd", steps=11, batch_size=4, learning_rate=0.5, momentum=0.75)

trainings = st.builds(
    TrainingConfig,
    optimizer=st.sampled_from(["sgd", "damped_sgd", "adam", "adamw"]),
    steps=st.integers(1, 12),
    batch_size=st.integers(1, 12),
    learning_rate=st.floats(0.01, 0.3),
    momentum=st.sampled_from([0.25, 0.5, 0.75]),
)
every_kind: list[Kind] = [
    L2(per="layer", init=-2.0),
    L1(per="model", init=-4.0),
    LearningRate(per="step"),
    Momentum(per="layer"),
    InitScale(),
    SampleWeight(),
    CustomTensor("mixing"),
]


@settings(settings.get_profile("engine"))
@given(trainings, st.sets(st.integers(0, len(every_kind) - 1), min_size=1), st.integers(0, 99))
def test_exact_methods_agree(training: TrainingConfig, chosen: set[int], seed: int) -> None:
    kinds = [every_kind[i] for i in sorted(chosen)]
    exact = tuner_of(mixing_problem(seed=seed), kinds, training)
    values = shaken(exact, 0.2)
    expected = exact.evaluate(values, 0).hypergradient
    for method in EXACT:
        found = tuner_of(mixing_problem(seed=seed), kinds, training, method).evaluate(values, 0)
        assert largest_difference(found, expected) < 1e-10


def test_stored_takes_a_horizon_as_replay_does() -> None:
    replayed, stored = (
        tuner_of(small_problem(), [SampleWeight()], TRAINING, method)
        for method in (Replay(4), Stored(4))
    )
    values = shaken(replayed)
    expected = replayed.evaluate(values, 0)
    found = stored.evaluate(values, 0)
    assert found.backward_steps == expected.backward_steps == 4
    assert largest_difference(found, expected.hypergradient) == 0.0


def test_one_step_is_its_formula() -> None:
    """α δ <∇_w L_{T-1}(w_{T-1}), ∇f(w_T)>, differentiated by λ alone; w_{T-1} by a shorter run."""
    problem = small_problem()
    tuner = tuner_of(problem, [SampleWeight()], TRAINING, OneStep())
    values = shaken(tuner)
    found = tuner.evaluate(values, 0)
    shorter = tuner_of(problem, [SampleWeight()], replace(TRAINING, steps=TRAINING.steps - 1))
    before = shorter.evaluate(values, 0).model
    raw = values["sample_weight"].clone().requires_grad_()
    weights = [value.clone().requires_grad_() for value in before.values()]
    after = [value.clone().requires_grad_() for value in found.model.values()]

    def losses(at: list[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        named = dict(zip(before, at, strict=True))
        made = torch.func.functional_call(problem.model, named, (inputs,))
        return torch.nn.functional.cross_entropy(made, targets, reduction="none")

    outer = torch.autograd.grad(losses(after, *problem.valid).mean(), after)
    batch = tuner._minibatches(0).join(TRAINING.steps - 1)
    inner = (losses(weights, batch.inputs, batch.targets) * raw[batch.index].sigmoid()).mean()
    gradient = torch.autograd.grad(inner, weights, create_graph=True)
    product = sum((g * o).sum() for g, o in zip(gradient, outer, strict=True))
    (by_raw,) = torch.autograd.grad(product, raw)  # type: ignore[arg-type]
    scale = TRAINING.learning_rate * (1.0 - TRAINING.momentum)
    assert found.backward_steps == 1
    assert largest_difference(found, {"sample_weight": -scale * by_raw}) < 1e-12


short: list[Method] = [Replay(3), Stored(3), Shortcut(3), OneStep(), Shortcut(preset="paper_tenth")]


@pytest.mark.parametrize("method", short, ids=lambda method: method.name)
@pytest.mark.parametrize("kind", [InitScale(), LearningRate("rate", per="step"), Momentum()])
def test_a_short_horizon_refuses_what_acts_before_it(method: Method, kind: Kind) -> None:
    if method == Shortcut(preset="paper_tenth") and isinstance(kind, InitScale):
        return
    with pytest.raises(ProblemError, match=f"{method.name} has no hypergradient") as error:
        tuner_of(small_problem(), [SampleWeight(), kind], TRAINING, method)
    assert error.value.field == f"hyperparameters.{kind.name}"
    tuner_of(small_problem(), [LearningRate(per="layer")], TRAINING, method)
