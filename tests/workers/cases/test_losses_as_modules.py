"""Losses that are modules: their buffers are state, their parameters are not trained."""

from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import L2, Batch, Problem, Replay, SampleWeight, Stored
from drmad_workers.hyperparameters.base import Kind
from tests.workers.cases.small import (
    CLASSES,
    INPUTS,
    TARGETS,
    Loss,
    each_loss,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import Refusal, assert_refused, assert_right, tuner_of

METHODS = (Stored(), Replay())
TYPES = (torch.float32, torch.float64)


class EarlyTargets(nn.Module):
    """Keeps an average of the outputs for every row (early-learning regularisation, 2007.00151)."""

    average: Tensor

    def __init__(self, in_buffer: bool) -> None:
        super().__init__()
        average = torch.zeros(60, CLASSES, dtype=torch.float64)
        if in_buffer:
            self.register_buffer("average", average)
        else:
            self.average = average

    def forward(self, forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        outputs = forward(batch.inputs)
        shares = outputs.softmax(1)
        with torch.no_grad():
            self.average[batch.index] = 0.7 * self.average[batch.index] + 0.3 * shares
        alike = (self.average[batch.index] * shares).sum(1, keepdim=True).clamp(0.0, 0.9)
        fit = each_loss(outputs, batch.targets).mean()
        loss: Tensor = fit + (tuned["h"] * (1.0 - alike).log()).mean()
        return loss


@pytest.mark.parametrize("in_buffer", [True, False])
@pytest.mark.parametrize("as_method", [True, False])
def test_state_of_a_loss_is_carried(in_buffer: bool, as_method: bool) -> None:
    def build() -> Problem:
        loss = EarlyTargets(in_buffer)
        stated: Loss = loss.forward if as_method else loss
        return problem_of(perceptron(), stated)

    assert_right(recipe_of(build), METHODS, draws=(0, 1))


def test_class_weights_are_placed_as_the_model_is() -> None:
    """A module of the user's own is in float32 wherever it computes."""
    kinds: tuple[Kind, ...] = (SampleWeight(), L2(per="layer", init=-4.0))
    weight = torch.tensor([1.0, 2.0, 3.0])

    def build(dtype: torch.dtype) -> Problem:
        problem = problem_of(perceptron(), None)
        problem.loss = nn.CrossEntropyLoss(weight.to(dtype), reduction="none")
        return problem

    assert_right(recipe_of(lambda: build(torch.float64), kinds), METHODS)
    found = [tuner_of(recipe_of(partial(build, dtype), kinds), Stored()) for dtype in TYPES]
    one, other = (each.evaluate(each.initial_values(), 0) for each in found)
    assert one.validation_loss == other.validation_loss


class Centres(nn.Module):
    """Draws the outputs of a class to a centre that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(CLASSES, CLASSES, dtype=torch.float64))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        away = (outputs - self.centres[targets]).square().sum(1)
        losses: Tensor = each_loss(outputs, targets) + 0.1 * away
        return losses


def test_parameters_of_a_loss_are_refused() -> None:
    def build(frozen: bool) -> Problem:
        problem = problem_of(perceptron(), None)
        problem.loss = Centres().requires_grad_(not frozen)
        return problem

    refusal = Refusal(
        ("problem.loss",), "'centres' of Centres.*requires_grad_", lambda: build(True)
    )
    kinds: tuple[Kind, ...] = (SampleWeight(), L2(per="layer", init=-4.0))
    assert_refused(recipe_of(lambda: build(False), kinds), METHODS, refusal)


def remembered() -> Problem:
    """A dict that grows while the rows are met."""
    memory: dict[int, Tensor] = {}

    def loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        shares = forward(batch.inputs).softmax(1)
        nothing = torch.zeros(CLASSES, dtype=torch.float64)
        old = torch.stack([memory.get(int(row), nothing) for row in batch.index])
        memory.update(zip(batch.index.tolist(), shares.detach(), strict=True))
        fit = -shares.log()[torch.arange(len(shares)), batch.targets].mean()
        total: Tensor = fit + (tuned["h"] * old * shares).mean()
        return total

    return problem_of(perceptron(), loss)


def test_a_memory_in_a_dict_is_refused() -> None:
    refusal = Refusal(("problem.inner_loss",), "buffer of the model")
    assert_refused(recipe_of(remembered), METHODS, refusal)


@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("structure", [tuple, list])
def test_arrays_of_numpy_are_columns(structure: Callable[..., object], writeable: bool) -> None:
    def pair(rows: slice) -> object:
        arrays = INPUTS[rows].numpy().copy(), TARGETS[rows].numpy().copy()
        for each in arrays:
            each.flags.writeable = writeable
        return structure(arrays)

    def build() -> Problem:
        return Problem(
            perceptron(), pair(slice(60)), pair(slice(60, 100)), loss=each_loss, initialize="reset"
        )

    assert_right(recipe_of(build, (SampleWeight(),)), [Stored()])
