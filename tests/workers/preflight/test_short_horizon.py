"""Preflight names the window from which on a tuned rate moves as over longer ones."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    LearningRate,
    MetaConfig,
    Problem,
    SampleWeight,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.preflight.short_horizon import lengths_of, short_horizon

RATE, STEEP, FLAT = 0.1, 19.0, 0.1
META = MetaConfig(mode="online", window=1)
SGD = TrainingConfig(
    "sgd", steps=32, batch_size=2, learning_rate=RATE, momentum=0.0, precision="float64"
)


def quadratic(steep: float, flat: float) -> Problem:
    """(19 a^2 + 0.1 b^2) / 2: at the rate 0.1 a oscillates, times -0.9 in each step."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[steep, flat]]))
    data = torch.diag(torch.tensor([STEEP, FLAT]).sqrt()), torch.zeros(2, 1)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum(1)

    return Problem(model, data, data, loss=loss)


def told(problem: Problem, meta: MetaConfig = META, kind: Kind | None = None) -> list[str]:
    tuner = Tuner(problem, [kind or LearningRate(per="model")], SGD, Stored())
    return short_horizon(tuner.replica, meta)


def derivative(length: int, steep: float, flat: float) -> float:
    """d loss / d rate over `length` steps after 16, in closed form."""
    total = 0.0
    for curvature, weight in ((STEEP, steep), (FLAT, flat)):
        factor = 1.0 - RATE * curvature
        begun = weight * factor**16
        total -= curvature**2 * begun**2 * length * factor ** (2 * length - 1)
    return total


@pytest.mark.parametrize(("steep", "least"), [(5.4, 16), (3.5, 8), (2.5, 2), (2.2, 1)])
def test_the_least_window_is_that_from_which_on_the_derivative_keeps_its_sign(
    steep: float, least: int
) -> None:
    """Of the closed form: over few steps a lower rate pays, over many a higher one."""
    signs = {length: derivative(length, steep, 91.0) > 0.0 for length in (1, 2, 4, 8, 16)}
    assert next(length for length, positive in signs.items() if not positive) == least
    (sentence,) = told(quadratic(steep, 91.0))
    cosine = "1.00" if least == 1 else "-1.00"
    assert f"over 1 steps has a cosine of {cosine} to that over 16" in sentence
    assert sentence.endswith(f"take window: {least} or longer") is (least > 1)


def test_only_rates_over_a_part_of_the_run_are_told() -> None:
    assert told(quadratic(1.0, 1.0), kind=SampleWeight()) == []
    assert told(quadratic(1.0, 1.0), replace(META, window=32)) == []
    (sentence,) = told(quadratic(1.0, 1.0), replace(META, window=16))
    assert "was not measured, because no longer window" in sentence


def test_the_compared_lengths_divide_the_run_and_are_bounded() -> None:
    assert lengths_of(10, 900) == [10, 20]
    assert lengths_of(30, 960) == [30, 60, 120, 240]
    assert lengths_of(500, 1000) == []
