"""Steps that take the mean of several gradients."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_workers import (
    L2,
    Forward,
    LearningRate,
    Method,
    Momentum,
    Problem,
    Replay,
    Reversible,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    WeightDecay,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.replica_batch import ReplicaBatch
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import assert_right
from tests.workers.small import largest_difference, relative, small_problem, tuner_of

TRAINING = TrainingConfig(
    "sgd", 5, 3, learning_rate=0.2, momentum=0.5, weight_decay=0.1, eps=1e-4, accumulate=3
)
KINDS: dict[str, tuple[Kind, ...]] = {
    "losses": (SampleWeight(), L2(per="layer", init=-3.0)),
    "rates": (LearningRate(per="step"), Momentum(per="model"), WeightDecay(per="layer")),
}
MODELS: dict[str, tuple[Callable[[], nn.Module], ...]] = {
    "plain": (),
    "dropout": (lambda: nn.Dropout(0.3),),
    "running statistics": (lambda: nn.BatchNorm1d(5), lambda: nn.Dropout(0.3)),
}


def problem(name: str) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (make() for make in MODELS[name])
        return small_problem(nn.Sequential(nn.Linear(4, 5), *layers, nn.Tanh(), nn.Linear(5, 3)))


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_exact_methods_are_central_differences_of_accumulating_trainings(
    optimizer: OptimizerName, name: str, kinds: str
) -> None:
    """Twelve rows are four minibatches of three: a step ends in the next epoch.

    Batch norm moves its statistics with every minibatch, and they decide the held-out loss.
    """
    training = replace(TRAINING, optimizer=optimizer, clip_norm=0.5 if kinds == "rates" else None)
    methods: list[Method] = [Stored(), Replay(), Forward()]
    if optimizer == "sgd" and kinds == "losses":
        methods.append(Reversible())
    recipe = Recipe(lambda: problem(name), KINDS[kinds], training)
    assert_right(recipe, methods, step=1e-6)


@pytest.mark.parametrize("name", ["plain", "running statistics"])
def test_the_shortcut_is_exact_with_a_node_at_every_step(name: str) -> None:
    everywhere = Shortcut(interpolation_nodes=5, max_stride=1, minibatch_subsampling=1)
    exact, shortcut = (
        tuner_of(problem(name), [*KINDS["losses"], LearningRate()], TRAINING, method)
        for method in (Replay(), everywhere)
    )
    values = exact.initial_values()
    expected = exact.evaluate(values, 0).hypergradient
    assert largest_difference(shortcut.evaluate(values, 0), expected) < 1e-9


def test_strides_use_every_minibatch_of_their_steps_once() -> None:
    training = replace(TRAINING, steps=8, learning_rate=1e-3, momentum=0.0)
    kinds: list[Kind] = [SampleWeight()]
    method = Shortcut(max_stride=4, max_adjoint_change=None, minibatch_subsampling=1)
    exact, strides = (
        tuner_of(small_problem(), kinds, training, each) for each in (Replay(), method)
    )
    values = exact.initial_values()
    expected, found = (tuner.evaluate(values, 0) for tuner in (exact, strides))
    assert found.backward_steps == 2
    name = "sample_weight"
    assert relative(found.hypergradient[name], expected.hypergradient[name]) < 1e-2


def test_a_step_is_that_of_one_larger_minibatch() -> None:
    """Four rows three times are the twelve rows of an epoch, in any order."""
    kinds: list[Kind] = [SampleWeight()]
    parts, whole = (
        tuner_of(small_problem(), kinds, replace(TRAINING, batch_size=rows, accumulate=12 // rows))
        for rows in (4, 12)
    )
    values = parts.initial_values()
    expected = whole.evaluate(values, 0)
    found = parts.evaluate(values, 0)
    assert largest_difference(found, expected.hypergradient) < 1e-12
    assert found.training_loss == pytest.approx(expected.training_loss, rel=1e-12)


@pytest.mark.parametrize("method", [Stored(), Replay()])
def test_replicas_side_by_side_accumulate_as_each_alone(method: Method) -> None:
    batch = ReplicaBatch(
        small_problem(), [*KINDS["losses"]], replace(TRAINING, clip_norm=0.3), method,
        replicas=(0, 1), dtype=torch.float64,
    )  # fmt: skip
    assert batch.reason is None
    values = batch.initial_values()
    for tuner, found in zip(batch.tuners, batch.evaluate(values, 0), strict=True):
        for name, expected in tuner.evaluate(values, 0).hypergradient.items():
            assert relative(found.hypergradient[name], expected) < 1e-9
