"""Where weights are large, gradients, penalties and steps are taken in parts; the bound is lowered.

Every exact method is compared with central differences of whole plain trainings.
"""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_workers import (
    L1,
    L2,
    Forward,
    InitScale,
    LearningRate,
    Method,
    Problem,
    Replay,
    Reversible,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.objective.parameters import cached_parts, flat_parameters
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import STEP, faults
from tests.workers.small import small_problem, tuner_of

ADAM_STEP = 1e-6
"""The step of a central difference through √s, whose derivative is large where s is small."""


@pytest.fixture(autouse=True)
def _lowered_bounds() -> Iterator[None]:
    """All weights are large, and a step takes 32 of them at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_parameters, "LARGE_BYTES", 0)
        patch.setattr(cached_parts, "PART", 32)
        yield


def network() -> Problem:
    tied = nn.Linear(5, 5)
    layers = (nn.Linear(4, 5), nn.Tanh(), tied, nn.Tanh(), tied, nn.Tanh(), nn.Linear(5, 3))
    problem = small_problem(nn.Sequential(*layers))
    problem.initialize = "reset"
    return problem


PENALTIES: tuple[Kind, ...] = (L2(per="unit", init=-3.0), L1(per="layer", init=-4.0))


@pytest.mark.parametrize(
    ("kinds", "methods"),
    [
        (PENALTIES, [Replay(), Stored(), Forward(), Reversible()]),
        ((L2(per="weight", init=-3.0), SampleWeight()), [Replay()]),
        (
            (L2(per="model", init=-3.0), LearningRate(per="layer"), InitScale()),
            [Replay(), Stored()],
        ),
    ],
)
def test_momentum_sgd_is_exact(kinds: tuple[Kind, ...], methods: list[Method]) -> None:
    training = TrainingConfig("sgd", 6, 4, learning_rate=0.2, momentum=0.75, weight_decay=0.01)
    assert faults(Recipe(network, kinds, training), methods) == []


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "muon"])
def test_other_optimizers_are_exact(optimizer: OptimizerName) -> None:
    training = TrainingConfig(
        optimizer, 6, 4, learning_rate=0.02, weight_decay=0.01, clip_norm=0.5, accumulate=2
    )
    recipe = Recipe(network, (*PENALTIES, LearningRate(per="layer")), training)
    step = ADAM_STEP if optimizer.startswith("adam") else STEP
    assert faults(recipe, [Replay()], step=step) == []


def test_a_hook_on_a_parameter_acts_once() -> None:
    def hooked() -> Problem:
        problem = network()
        weight = problem.model[0].weight  # type: ignore[index]
        weight.register_hook(lambda gradient: gradient.clamp(-0.02, 0.02))
        return problem

    training = TrainingConfig("sgd", 6, 4, learning_rate=0.2, momentum=0.75)
    assert faults(Recipe(hooked, (SampleWeight(),), training), [Replay()]) == []


def test_the_memory_of_an_optimizer_is_zero_before_every_run() -> None:
    training = TrainingConfig("adam", 3, 4, learning_rate=0.02)
    tuner = tuner_of(network(), [L2()], training)
    values = tuner.initial_values()
    first = tuner.train(values)
    tuner.objective.parameters.state[1:].fill_(torch.nan)
    assert tuner.train(values) == first


def test_the_preflight_says_what_a_backward_pass_needs_beyond_its_budget() -> None:
    training = TrainingConfig("sgd", 6, 4)
    shortcut = Shortcut(budget=2)
    replica = tuner_of(network(), [L2()], training, shortcut).replica
    (told,) = replica.exceeded(shortcut)
    least = int(re.findall(r"needs at least (\d+)", told)[0])
    assert f"set budget to {least} or more" in told
    assert replica.exceeded(Shortcut(budget=least)) == []
    assert len(replica.exceeded(Shortcut(budget=least - 1))) == 1
