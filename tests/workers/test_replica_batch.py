"""Replicas computed as a batch against the same replicas computed one after the other."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_workers import (
    L1,
    L2,
    CustomTensor,
    InitScale,
    LearningRate,
    LossWeight,
    Method,
    Problem,
    Replay,
    SampleWeight,
    Shards,
    Shortcut,
    Stored,
    TrainingConfig,
    TrainingData,
    Tuner,
)
from drmad_workers.hypergradients import replay
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.replica_batch import ReplicaBatch
from tests.workers.small import CLASSES, largest_difference, mixing_problem, relative, small_problem

TRAINING = TrainingConfig("damped_sgd", steps=19, batch_size=5, learning_rate=0.4, momentum=0.8)
REPLICAS = (0, 1, 4)


def together(
    problem: Problem,
    kinds: list[Kind],
    training: TrainingConfig,
    method: Method,
    shards: Shards | None = None,
) -> ReplicaBatch:
    return ReplicaBatch(
        problem,
        kinds,
        training,
        method,
        seed=3,
        replicas=REPLICAS,
        dtype=torch.float64,
        shards=shards,
    )


def assert_as_single(
    problem: Problem,
    kinds: list[Kind],
    training: TrainingConfig,
    method: Method,
    shards: Shards | None = None,
) -> None:
    problem.initialize = "reset"
    problem.test = problem.valid
    replicas = together(problem, kinds, training, method, shards)
    values = {
        name: value + 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(5))
        for name, value in replicas.initial_values().items()
    }
    given = [parameter.detach().clone() for parameter in problem.model.parameters()]
    found = replicas.evaluate(values, 2)
    assert replicas.reason is None
    for before, after in zip(given, problem.model.parameters(), strict=True):
        assert torch.equal(before, after)
    for number, actual in zip(REPLICAS, found, strict=True):
        tuner = Tuner(
            problem, kinds, training, method, 3, number, dtype=torch.float64, shards=shards
        )
        expected = tuner.evaluate(values, 2)
        assert largest_difference(actual, expected.hypergradient) < 1e-10
        for name, weights in expected.model.items():
            assert relative(actual.model[name], weights) < 1e-10
        assert abs(actual.validation_loss - expected.validation_loss) < 1e-10
        assert abs(actual.training_loss - expected.training_loss) < 1e-10
        assert actual.metrics == pytest.approx(expected.metrics, rel=1e-10)
        assert actual.backward_steps == expected.backward_steps
    first, last = found[0].hypergradient, found[-1].hypergradient
    assert any(relative(first[name], last[name]) > 1e-3 for name in first)


@pytest.mark.parametrize(
    "method",
    [
        Replay(),
        Replay(7),
        Stored(),
        Shortcut(max_adjoint_change=None, max_stride=3, interpolation_nodes=4),
        Shortcut(preset="paper"),
        Shortcut(),
        Shortcut(curvature="gauss_newton"),
    ],
)
def test_replicas_together_are_each_alone(method: Method) -> None:
    assert_as_single(small_problem(), [L2(per="unit", init=-2.0), SampleWeight()], TRAINING, method)


@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_replicas_together_train_the_first_half_again(tolerance: float | None) -> None:
    method, training = (
        Shortcut(budget=3, max_adjoint_change=tolerance),
        replace(TRAINING, steps=160),
    )
    assert method.cost(training) == 3.5
    assert_as_single(small_problem(), [SampleWeight()], training, method)


def test_replicas_on_shards_of_their_own_are_batched() -> None:
    shards = Shards("overlapping", count=5, train=0.5, valid=0.4, seed=2)
    kinds: list[Kind] = [SampleWeight(), L2(per="unit", init=-2.0)]
    assert_as_single(small_problem(), kinds, TRAINING, Replay(), shards)


@pytest.mark.parametrize(
    "kinds",
    [
        [L1(init=-4.0, per="weight"), L2(name="decay", per="layer", init=-2.0), InitScale()],
        [TrainingData(), SampleWeight()],
        [LossWeight(), L2(per="model", init=-2.0)],
    ],
)
def test_every_kind_is_batched(kinds: list[Kind]) -> None:
    assert_as_single(small_problem(), kinds, TRAINING, Replay())


def test_losses_of_the_users_own_are_batched() -> None:
    kinds: list[Kind] = [CustomTensor("mixing"), SampleWeight()]
    assert_as_single(mixing_problem(), kinds, TRAINING, Replay())
    assert_as_single(mixing_problem(), kinds, TRAINING, Shortcut(max_adjoint_change=None))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_every_inner_optimizer_is_batched(optimizer: OptimizerName) -> None:
    training = replace(TRAINING, optimizer=optimizer, learning_rate=0.05)
    assert_as_single(small_problem(), [L2(per="unit", init=-2.0)], training, Replay())


def test_with_graphs_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "TRACED_BYTES", 0)
    assert_as_single(small_problem(), [L2(init=-2.0, per="weight")], TRAINING, Replay())


class Branching(nn.Module):
    """Control flow that depends on the data, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs)
        return out if float(out.detach().sum()) > 1e9 else torch.tanh(out)


@pytest.mark.parametrize(
    ("model", "kind", "reason"),
    [
        (
            nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES)),
            L2(per="weight"),
            "buffers",
        ),
        (
            nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, CLASSES)),
            L2(per="weight"),
            "random",
        ),
        (Branching(), L2(per="weight"), "vmap"),
        (nn.Linear(4, CLASSES), LearningRate(), "derivatives by learning_rate"),
    ],
)
def test_what_cannot_be_batched_is_computed_one_by_one_and_says_why(
    model: nn.Module, kind: Kind, reason: str
) -> None:
    replicas = together(small_problem(model), [kind], TRAINING, Replay())
    assert replicas.reason is not None
    assert reason in replicas.reason
    values = replicas.initial_values()
    found = replicas.evaluate(values, 0)
    tuner = Tuner(small_problem(model), [kind], TRAINING, Replay(), 3, 4, dtype=torch.float64)
    expected = tuner.evaluate(values, 0)
    assert largest_difference(found[2], expected.hypergradient) == 0.0
