"""What `implicit` takes as constants although training changes it, judged by plain trainings."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from drmad_workers import Problem, TrainingConfig, Tuner
from drmad_workers.hypergradients.implicit import Implicit
from drmad_workers.hyperparameters.penalty import L2
from tests.workers.small import CLASSES, small_problem

TRAINING = TrainingConfig(steps=200, batch_size=12, learning_rate=0.5, momentum=0.5)
START = -2.0


class Averaged(nn.Module):
    """A linear layer; where it `tracks`, it predicts by an average of the weights of training."""

    average: Tensor
    calls: Tensor

    def __init__(self, tracks: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES)
        self.register_buffer("average", torch.zeros(CLASSES, 4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.tracks = tracks

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        if self.training and self.tracks:
            with torch.no_grad():
                self.average.lerp_(self.layer.weight, 0.5)
        if self.training or not self.tracks:
            return self.layer(inputs)  # type: ignore[no-any-return]
        return functional.linear(inputs, self.average, self.layer.bias)


def problem(tracks: bool) -> Problem:
    torch.manual_seed(0)
    return small_problem(Averaged(tracks))


def by_implicit(stated: Problem) -> tuple[float, list[str]]:
    method = Implicit(tolerance=1e-6)
    kinds = [L2(per="model", init=START)]
    tuner = Tuner(stated, kinds, TRAINING, method, dtype=torch.float64)
    found = tuner.evaluate(tuner.initial_values(), 0)
    return float(found.hypergradient["l2"]), method.limits(tuner.objective)


def by_differences(stated: Problem, step: float = 1e-4) -> float:
    """The central difference of the outer loss after whole trainings by torch.optim."""

    def trained(log_penalty: float) -> float:
        model = copy.deepcopy(stated.model).train()
        inputs, targets = stated.train
        optimizer = torch.optim.SGD(
            model.parameters(), lr=TRAINING.learning_rate, momentum=TRAINING.momentum
        )
        penalty = torch.tensor(log_penalty, dtype=torch.float64).exp()
        for _ in range(TRAINING.steps):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), targets)
            (loss + penalty * model.layer.weight.square().sum()).backward()  # type: ignore[union-attr, operator]
            optimizer.step()
        with torch.no_grad():
            held_out, labels = stated.valid
            return float(functional.cross_entropy(model.eval()(held_out), labels))

    return (trained(START + step) - trained(START - step)) / (2.0 * step)


def test_implicit_is_right_beside_a_counter_and_names_no_limit() -> None:
    found, limits = by_implicit(problem(tracks=False))
    assert abs(found / by_differences(problem(tracks=False)) - 1.0) < 1e-4
    assert limits == []


def test_implicit_names_what_it_takes_as_a_constant_where_that_makes_it_wrong() -> None:
    found, (limit,) = by_implicit(problem(tracks=True))
    assert abs(found / by_differences(problem(tracks=True)) - 1.0) > 0.1
    assert "takes average as constants" in limit
    assert "calls" not in limit
