"""Central differences that distinguish a wrong derivative from a kink and from rounding.

A difference over a long distance is wrong where the function has kinks (ReLU, max-pooling), one
over a short distance where rounding counts. The distance is therefore shortened step by step: a
derivative is right if some difference agrees with it, and wrong only if the shortest differences
agree with each other and not with it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from drmad_workers.objective.autograd.autograd_graph import graph_nodes

Outcome = Literal["agrees", "differs", "undecided"]

DISTANCES = {
    torch.float64: (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10),
    torch.float32: (2e-2, 1e-2, 5e-3),
}
"""Distances from the longest to the shortest, by the type of the numbers."""
TOLERANCES = {torch.float64: 1e-5, torch.float32: 0.05}
"""The relative difference between a right derivative and a central difference."""
MAX_ROUNDING = 0.05
"""Bounds the rounding of a difference that speaks against a derivative, as a share of it. One that
speaks for it may be rounded by no more than the tolerance."""
MAX_SPREAD = 0.1
"""Bounds the spread of differences that agree, as a share of their distance to the derivative."""
AGREEING = 3
"""The number of differences that must agree before a derivative counts as wrong."""
KINKS = (
    "Relu", "Threshold", "Hardtanh", "Hardsigmoid", "Hardswish", "Hardshrink", "Softshrink",
    "MaxPool", "AdaptiveMaxPool", "Abs", "Clamp", "Max", "Min", "Amax", "Amin", "Maximum",
    "Minimum", "Topk", "Sort", "Where", "SmoothL1", "Huber", "MultiMargin",
)  # fmt: skip
"""The beginnings of the names of autograd's nodes whose functions have kinks."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of a derivative with central differences.

    Attributes:
        outcome: "undecided" where neither a difference agrees with the derivative, nor the
            differences with each other.
        expected: the derivative.
        difference: the central difference that comes closest; nan if none is finite.
    """

    outcome: Outcome
    expected: float
    difference: float

    @property
    def error(self) -> float:
        """The relative difference, in [0, 2]."""
        size = max(abs(self.expected), abs(self.difference))
        return abs(self.expected - self.difference) / size if size > 0.0 else 0.0


def compare(
    expected: float,
    difference: Callable[[float], float],
    dtype: torch.dtype,
    rounding: float,
    scale: float = 0.0,
    tolerance: float | None = None,
    kinks: bool = False,
) -> Comparison:
    """Compares a derivative with central differences over shorter and shorter distances.

    Args:
        expected: the derivative.
        difference: the central difference over a distance; nan ends the comparison.
        dtype: the type of the numbers, float64 or float32.
        rounding: the rounding of the function that is differenced; a difference over the distance
            d has the error rounding / d.
        scale: a size below which, times the tolerance, an error does not count.
        tolerance: the relative error of a right derivative; None takes that of the type.
        kinks: whether the function has kinks; float32 has no distance short enough to miss them,
            so that it never says "differs" there.
    """
    tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
    found: list[float] = []
    for distance in DISTANCES[dtype]:
        value, error = difference(distance), rounding / distance
        size = max(abs(expected), abs(value), scale)
        if math.isnan(value) or (found and error > MAX_ROUNDING * size):
            break
        allowed = tolerance * size
        precise = error <= allowed or not found
        if precise and abs(value - expected) <= allowed + error:
            return Comparison("agrees", expected, value)
        found.append(value)
    closest = min(found, key=lambda value: abs(value - expected), default=math.nan)
    decided = agree(found, expected) and not (kinks and dtype == torch.float32)
    return Comparison("differs" if decided else "undecided", expected, closest)


def agree(found: Sequence[float], expected: float) -> bool:
    """Whether the shortest differences agree with each other and not with the derivative."""
    last = found[-AGREEING:]
    if len(last) < AGREEING:
        return False
    apart = min(abs(value - expected) for value in last)
    return max(last) - min(last) <= MAX_SPREAD * apart


def has_kinks(loss: Tensor) -> bool:
    """Whether the graph of a loss contains a function with kinks."""
    return any(node.name().startswith(KINKS) for node in graph_nodes(loss))
