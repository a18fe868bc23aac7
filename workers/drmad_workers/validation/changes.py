"""Changes of the hyperparameters whose effect a hypergradient predicts, and retraining measures.

[Ilyas2022] Datamodels: predicting predictions from training data, 2202.00622.
[Park2023] TRAK: attributing model behavior at scale, 2303.14186 (LDS, section 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.sample_weight import BoundSampleWeight
from drmad_workers.meta.update import bounds_of, projected
from drmad_workers.random_streams import Purpose, seed_of

LEFT_OUT = -40.0
"""The logit of an example that is left out: its weight is 4e-18, which adds nothing in float32."""

ChangeKind = Literal["left_out", "direction"]


@dataclass(frozen=True)
class Change:
    """One change of one hyperparameter, a function of the seed.

    Attributes:
        name: the hyperparameter.
        kind: "left_out" gives a random subset of the examples a weight of 0; "direction" moves
            every entry by a normal deviate times `size` outer steps.
        size: the share of the examples that is left out, or the length in outer steps.
        number: counts the changes of one size.
    """

    name: str
    kind: ChangeKind
    size: float
    number: int


def changes_of(
    hyperparameters: Mapping[str, BoundHyperparameter],
    each: int,
    fractions: Sequence[float],
    radii: Sequence[float],
) -> list[Change]:
    """`each` changes of every size of every hyperparameter.

    Weights of examples are left out in subsets. All other kinds move along random directions.
    """
    found: list[Change] = []
    for name, bound in hyperparameters.items():
        kind: ChangeKind = "direction"
        sizes = radii
        if isinstance(bound, BoundSampleWeight):
            kind, rows = "left_out", bound.shape.numel()
            # Of few examples, two shares may be the same number of them.
            distinct = {subset_rows(rows, fraction): fraction for fraction in reversed(fractions)}
            sizes = sorted(distinct.values())
        found += [Change(name, kind, size, number) for size in sizes for number in range(each)]
    return found


def subset_rows(rows: int, fraction: float) -> int:
    """The number of examples of a subset: at least one."""
    return max(1, round(fraction * rows))


def left_out_rows(change: Change, rows: int, seed: int) -> Tensor:
    """The positions of the examples that the change leaves out, int64, without repetition."""
    draw = _generator(change, seed)
    return torch.randperm(rows, generator=draw)[: subset_rows(rows, change.size)]


def changed(
    change: Change, bound: BoundHyperparameter, value: Tensor, outer_step: float, seed: int
) -> Tensor:
    """λ of the hyperparameter after the change, within its bounds for a direction.

    Args:
        value: λ of the hyperparameter.
        outer_step: the root mean square of what one outer step adds to λ.
        seed: that of the validation.
    """
    if change.kind == "left_out":
        after = value.clone()
        after[left_out_rows(change, value.numel(), seed)] = LEFT_OUT
        return after
    normal = torch.randn(value.shape, generator=_generator(change, seed), dtype=torch.float64)
    moved = {change.name: value + (change.size * outer_step * normal).to(value.dtype)}
    return projected(moved, bounds_of({change.name: bound}))[change.name]


def predicted(change: Change, value: Tensor, after: Tensor, hypergradient: Tensor) -> float:
    """The change of the validation loss to first order, <hypergradient, change>.

    A direction is a change of λ. A subset that is left out is a change of the weights σ(λ), from
    σ(λ) to 0, to which a derivative by λ is no guide: with g = ∂f/∂λ, ∂f/∂σ = g / σ(1 - σ), so that
    the change is -Σ g / (1 - σ) over the subset.
    """
    before, moved, gradient = value.double(), after.double(), hypergradient.double()
    if change.kind == "direction":
        return float((gradient * (moved - before)).sum())
    # A weight that is 1 in λ's own precision has a derivative of 0, whatever it is divided by.
    rest = (-before).sigmoid().clamp_min(torch.finfo(torch.float64).tiny)
    return -float((gradient / rest)[moved != before].sum())


def predicted_by_scores(rows: Tensor, scores: Tensor) -> float:
    """The change of the validation loss on leaving out `rows`, from a score of every example.

    A score is the derivative of the validation loss by the weight of the example, times its weight:
    what the example adds to the loss. Any attribution can be judged by it, see [Park2023].
    """
    return -float(scores.double()[rows].sum())


def _generator(change: Change, seed: int) -> torch.Generator:
    numbers = (seed, change.number, round(1e6 * change.size))
    return torch.Generator().manual_seed(seed_of(Purpose.VALIDATION, *numbers))
