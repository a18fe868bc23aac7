"""The data and the losses that the cases share: three classes, six features, 60 + 40 rows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers import (
    Batch,
    CustomTensor,
    Forward,
    Hyperparameter,
    Method,
    Problem,
    Replay,
    Reversible,
    Stored,
    TrainingConfig,
)
from drmad_workers.hyperparameters.base import Kind
from tests.workers.judge.plain_training import Recipe

CLASSES, FEATURES, WIDTH = 3, 6, 8
TRAINING = TrainingConfig("sgd", steps=24, batch_size=10, learning_rate=0.1, momentum=0.75)
H: tuple[Kind, ...] = (CustomTensor("h"),)
EXACT: tuple[Method, ...] = (Stored(), Replay(), Reversible(), Forward())
BY_DIFFERENCES: tuple[Method, ...] = (
    Stored(hvp="finite_difference"),
    Replay(hvp="finite_difference"),
)

Loss = Callable[[Any, Mapping[str, Tensor], Batch], Tensor]

_draw = torch.Generator().manual_seed(1)
INPUTS = torch.randn(100, FEATURES, generator=_draw, dtype=torch.float64)
_scores = torch.tanh(INPUTS @ torch.randn(FEATURES, CLASSES, generator=_draw, dtype=torch.float64))
_noise = 0.5 * torch.randn(100, CLASSES, generator=_draw, dtype=torch.float64)
TARGETS = (_scores + _noise).argmax(1)
LENGTHS = torch.full((100,), FEATURES).index_fill_(0, torch.tensor([16, 46, 70, 80]), 2)
"""A few rows are short: the first minibatches have none, the last of an epoch has some."""


def each_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def class_weighted(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The training loss in which h weighs the classes."""
    losses = each_loss(forward(batch.inputs), batch.targets)
    return (losses * tuned["h"][batch.targets]).mean()


def problem_of(
    model: nn.Module,
    inner_loss: Loss | None = class_weighted,
    inputs: Tensor = INPUTS,
    **options: Any,
) -> Problem:
    """A problem whose tensor h enters the training loss; None trains by the plain loss."""
    stated = (
        {} if inner_loss is None else {"h": Hyperparameter(torch.tensor([0.3, -0.2, 0.1]), "exp")}
    )
    return Problem(
        model=model,
        train=(inputs[:60].clone(), TARGETS[:60].clone()),
        valid=(inputs[60:].clone(), TARGETS[60:].clone()),
        loss=each_loss,
        inner_loss=inner_loss,
        hyperparameters=stated,
        **{"initialize": "reset", **options},
    )


def padded() -> Tensor:
    """The inputs with the length of every row in the last column."""
    return torch.cat([INPUTS, LENGTHS[:, None].double()], dim=1)


def recipe_of(
    build: Callable[[], Problem],
    kinds: tuple[Kind, ...] = H,
    training: TrainingConfig = TRAINING,
) -> Recipe:
    return Recipe(build, kinds, training)


def perceptron(hidden: int = WIDTH) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.Tanh(), nn.Linear(hidden, CLASSES))
