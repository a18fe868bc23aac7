"""Rates of an inner optimizer (α_t, γ_t, ω), per model, per layer, per step, or both."""

from collections.abc import Sequence

import torch
from torch import Tensor

Factor = float | Tensor
"""A number, or one per layer, shape (L,); spread over the weights, shape (P,)."""


class Rate:
    """A coefficient of the update rule: one number, or one per step, per layer, or both.

    A layer is one parameter tensor: a matrix and its bias are two, as in [Maclaurin2015].

    Attributes:
        sizes: weights in each layer, in the order of the flat vector.
        total: where its derivative gathers, shape (L or 1, T or 1), or one row per group of
            layers, see `rows`; None where it is not tuned.
        rows: the row of `total` to which each layer belongs, shape (L,), int64, -1 for a layer
            whose value is not tuned; None where the rows of `total` are those of the values.
        factors: the factors of a schedule, one per step, which multiply the values; None for 1.
        varies: whether it differs between steps.
    """

    def __init__(
        self,
        values: float | Tensor,
        sizes: Sequence[int] = (),
        total: Tensor | None = None,
        rows: Tensor | None = None,
        factors: Sequence[float] | None = None,
    ) -> None:
        """`values` has shape (L or 1, T or 1); only a plain number does without the sizes."""
        self.sizes = sizes
        self.total = total
        self.rows = rows if rows is None or total is None else rows.to(total.device)
        self._values = torch.tensor([[values]]) if isinstance(values, float) else values
        layers, steps = self._values.shape
        self.per_layer, self.per_step = layers > 1, steps > 1
        self._numbers = [values] if isinstance(values, float) else self._values[0].tolist()
        self.factors = factors
        self.varies = self.per_step or factors is not None
        self._constant = None if self.varies else self.spread(self.at(0))
        self.is_zero = total is None and not bool(self._values.any())

    @property
    def tuned_per_step(self) -> bool:
        return self.per_step and self.total is not None

    def at(self, step: int) -> Factor:
        """A number, or one per layer."""
        value = self.before_schedule(step)
        return value if self.factors is None else value * self.factors[step]

    def before_schedule(self, step: int) -> Factor:
        """`at` without the factor of the schedule."""
        column = step if self.per_step else 0
        return self._values[:, column] if self.per_layer else self._numbers[column]

    def factor(self, step: int) -> Factor:
        """A number, or one per weight."""
        return self.spread(self.at(step)) if self._constant is None else self._constant

    def spread(self, factor: Factor) -> Factor:
        """From one per layer, shape (L,), to one per weight, shape (P,); numbers stay."""
        if not isinstance(factor, Tensor):
            return factor
        parts = zip(factor, self.sizes, strict=True)
        return torch.cat([value.expand(size) for value, size in parts])

    def rounded(self, denominator: int) -> "Rate":
        """The nearest n / denominator with 0 < n < denominator; their derivatives gather here."""
        numerators = self._values.mul(denominator).round_().clamp_(1, denominator - 1)
        return Rate(numerators / denominator, self.sizes, self.total, self.rows, self.factors)

    def gather(self, step: int, derivative: Tensor) -> None:
        """Adds a derivative by the value of one step: its parts by layer, or by weight."""
        if self.total is None:
            return
        if len(derivative) > len(self.sizes) and self.per_layer:
            parts = torch.split(derivative, list(self.sizes))
            derivative = torch.stack([part.sum() for part in parts])
        elif not self.per_layer:
            derivative = derivative.sum()
        if self.factors is not None:
            derivative = derivative * self.factors[step]
        column = self.total[:, step if self.per_step else 0]
        if self.rows is None:
            column.add_(derivative)
        else:
            tuned = self.rows >= 0
            column.index_add_(0, self.rows[tuned], derivative.expand(len(self.rows))[tuned])


def part_of(factor: Factor, part: slice) -> Factor:
    """The factors of a part of the weights; numbers stay."""
    return factor[part] if isinstance(factor, Tensor) else factor


def add_scaled(out: Tensor, factor: Factor, tensor: Tensor, sign: float = 1.0) -> None:
    """out += sign factor tensor, in place; all of shape (P,) but the factor, which may be one."""
    if isinstance(factor, float):
        out.add_(tensor, alpha=sign * factor)
    else:
        out.addcmul_(tensor, factor, value=sign)
