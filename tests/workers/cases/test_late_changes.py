"""Values that training changes, but not in its first steps; and teachers that are modules."""

from collections.abc import Callable, Mapping
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import Batch, Problem, ProblemError
from drmad_workers.hypergradients.automatic.auto import Auto
from tests.workers.cases.small import (
    CLASSES,
    EXACT,
    FEATURES,
    each_loss,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import assert_right, tuner_of


class LateTeacher(nn.Module):
    """A moving average of the outputs' weights that starts at step 8."""

    teacher: Tensor
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("teacher", torch.zeros(CLASSES, FEATURES))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.step += 1
            if self.step > 8:
                self.teacher.lerp_(self.layer.weight.detach(), 0.2)
        outputs: Tensor = self.layer(inputs)
        return outputs


class FrozenTeacher(nn.Module):
    """A copy of the network whose parameters require no gradient and follow the network's."""

    def __init__(self, first: int = 0) -> None:
        super().__init__()
        self.net = perceptron()
        self.copy = deepcopy(self.net).requires_grad_(False)
        self.seen, self.first = 0, first

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
            if self.seen > self.first:
                with torch.no_grad():
                    pairs = zip(self.copy.parameters(), self.net.parameters(), strict=True)
                    for copy, own in pairs:
                        copy.mul_(0.8).add_(own, alpha=0.2)
        outputs: Tensor = self.net(inputs)
        return outputs


def taught_by_weights(forward: LateTeacher, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    outputs: Tensor = forward(batch.inputs)
    distance: Tensor = (outputs - batch.inputs @ forward.teacher.t()).square().mean(0)
    return each_loss(outputs, batch.targets).mean() + (tuned["h"] * distance).sum()


def taught_by_outputs(forward: FrozenTeacher, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    outputs: Tensor = forward(batch.inputs)
    with torch.no_grad():
        target = forward.copy(batch.inputs)
    distance: Tensor = (outputs - target).square().mean(0)
    return each_loss(outputs, batch.targets).mean() + (tuned["h"] * distance).sum()


class Watched(nn.Module):
    """Keeps its last outputs, without their graph, in an attribute: one row per example."""

    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(inputs)
        self.last = outputs.detach()
        return outputs


CASES: dict[str, Callable[[], Problem]] = {
    "teacher that starts late": lambda: problem_of(LateTeacher(), taught_by_weights),
    "results in an attribute": lambda: problem_of(Watched()),
    "teacher of frozen parameters": lambda: problem_of(FrozenTeacher(), taught_by_outputs),
}


@pytest.mark.parametrize("name", CASES)
def test_what_training_changes_is_carried(name: str) -> None:
    assert_right(recipe_of(CASES[name]), (*EXACT, Auto()))


def test_frozen_parameters_that_change_late_are_refused() -> None:
    recipe = recipe_of(lambda: problem_of(FrozenTeacher(first=8), taught_by_outputs))
    tuner = tuner_of(recipe, EXACT[0])
    with pytest.raises(ProblemError, match=r"copy\.0\.weight.*buffer") as caught:
        tuner.evaluate(tuner.initial_values(), 0)
    assert caught.value.field == "model"


def test_the_users_model_is_left_as_it_was_given() -> None:
    recipe = recipe_of(CASES["teacher that starts late"])
    tuner = tuner_of(recipe, EXACT[0])
    model = tuner.replica.objective.problem.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for draw in range(2):
        tuner.evaluate(tuner.initial_values(), draw)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name])


def test_a_counter_that_single_precision_cannot_hold_is_refused() -> None:
    def build() -> Problem:
        model = FrozenTeacher()
        model.seen = 2**24
        return problem_of(model, taught_by_outputs)

    assert_right(recipe_of(build), EXACT[:1])  # the judge computes in float64
    with pytest.raises(ProblemError, match=r"seen is 16777216.*float64") as caught:
        tuner_of(recipe_of(build), EXACT[0], torch.float32)
    assert caught.value.field == "training.precision"
