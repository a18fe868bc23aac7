"""A wrong derivative is distinguished from a kink and from rounding."""

import math
from collections.abc import Callable

import pytest
import torch

from drmad_workers.objective.checks.central_differences import Outcome, compare, has_kinks


def along(function: Callable[[float], float], at: float) -> Callable[[float], float]:
    return lambda distance: (function(at + distance) - function(at - distance)) / (2.0 * distance)


def staircase(x: float) -> float:
    """Slope 2 between its steps of height 1e-5, which lie 1e-5 apart: slope 3 from far away."""
    return 2.0 * x + math.floor(x / 1e-5 + 0.5) * 1e-5


@pytest.mark.parametrize(
    ("function", "at", "derivative", "outcome"),
    [
        (math.sin, 0.7, math.cos(0.7), "agrees"),
        (math.sin, 0.7, math.cos(0.7) * 1.0001, "differs"),
        (math.sin, 0.7, 0.0, "differs"),
        (lambda x: 1.0, 0.7, 0.0, "agrees"),
        (lambda x: 1.0, 0.7, 0.1, "differs"),
        (abs, 3e-5, 1.0, "agrees"),
        (staircase, 0.0, 2.0, "agrees"),
        (staircase, 0.0, 2.1, "differs"),
        (lambda x: math.sin(1e12 * x), 0.7, 1.0, "undecided"),
    ],
)
def test_outcomes(
    function: Callable[[float], float], at: float, derivative: float, outcome: Outcome
) -> None:
    found = compare(derivative, along(function, at), torch.float64, rounding=1e-16)
    assert found.outcome == outcome


def test_kinks_in_float32_never_count_against_a_derivative() -> None:
    for kinks, outcome in ((False, "differs"), (True, "undecided")):
        found = compare(2.0, lambda distance: 3.0, torch.float32, rounding=1e-7, kinks=kinks)
        assert found.outcome == outcome


def test_a_difference_that_is_nothing_but_rounding_decides_nothing_against() -> None:
    noise = iter([0.7, -0.4, 0.9, -0.2, 0.1, 0.5, -0.6])
    found = compare(0.0, lambda distance: next(noise) * 1e-15 / distance, torch.float64, 1e-15)
    assert found.outcome == "agrees"


def test_differences_that_end_early_decide_nothing() -> None:
    assert compare(1.0, lambda distance: math.nan, torch.float64, 1e-16).outcome == "undecided"


def test_kinks_are_found_in_the_graph() -> None:
    weights = torch.ones(3, requires_grad=True)
    assert not has_kinks(weights.tanh().square().sum())
    assert has_kinks((weights.relu() * 2.0).sum())
    assert has_kinks(torch.nn.functional.max_pool1d(weights.view(1, 1, 3), 2).sum())
    assert not has_kinks(torch.ones(()))
