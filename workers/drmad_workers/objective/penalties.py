"""Penalties Σ_u e^{λ_u} Σ_{j in u} |w_j|^k, k = 1 or 2, with their derivatives written out."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.penalty import BoundPenalty


class Penalties:
    """The sum of all penalties on the flat weights, shape (..., P).

    Products with second derivatives accumulate between `begin_products` and `subtract_totals`.
    """

    def __init__(self, bound: Iterable[BoundHyperparameter]) -> None:
        tuned = [b for b in bound if isinstance(b, BoundPenalty)]
        self._powers = [
            PowerPenalty(power, of_power)
            for power in (1, 2)
            if (of_power := [b for b in tuned if b.power == power])
        ]

    def set(self, values: Mapping[str, Tensor], weights: Tensor) -> None:
        """Takes e^λ by name; `weights` gives the number, type and device of the coefficients."""
        for penalty in self._powers:
            penalty.set(values, weights.new_zeros(weights.shape[-1]))

    def value(self, weights: Tensor) -> float:
        """The sum of the penalties at weights of shape (P,)."""
        return sum(float(penalty.value(weights)) for penalty in self._powers)

    def add_gradient(self, weights: Tensor, out: Tensor) -> None:
        """out += ∇_w of the penalties, shape (..., P)."""
        for penalty in self._powers:
            penalty.add_gradient(weights, out)

    def begin_products(self, weights: Tensor) -> None:
        for penalty in self._powers:
            penalty.begin_products(weights)

    def subtract_product(
        self, weights: Tensor, cotangent: Tensor, out: Tensor, share: float = 1.0
    ) -> None:
        """out -= share H u, shape (..., P); accumulates the derivative by λ of <∇_w, u>."""
        for penalty in self._powers:
            penalty.subtract_product(weights, cotangent, out, share)

    def subtract_curvature(self, cotangent: Tensor, out: Tensor) -> None:
        """out -= H u, shape (P,)."""
        for penalty in self._powers:
            penalty.subtract_curvature(cotangent, out)

    def add_along(
        self, weights: Tensor, along: Tensor, values: Mapping[str, Tensor], out: Tensor
    ) -> None:
        """out += H z + (∂²/∂w∂e^λ) e for directions z of the weights, e of the values: (D, P)."""
        for penalty in self._powers:
            penalty.add_along(weights, along, values, out)

    def add_products(self, replica: int, stacked: "Penalties") -> None:
        """Adds the products that R replicas side by side accumulated for one replica."""
        for penalty, other in zip(self._powers, stacked._powers, strict=True):
            penalty.products.add_(other.products[replica])

    def subtract_totals(self, totals: Mapping[str, Tensor]) -> None:
        """totals -= ∂/∂e^λ Σ <∇_w penalty, u> over the products since `begin_products`."""
        for penalty in self._powers:
            penalty.subtract_totals(totals)


class PowerPenalty:
    """All penalties of one power k.

    Attributes:
        products: the sum of ∂/∂c <∇_w penalty, u> by the coefficient c of every weight, shape
            (..., P).
    """

    def __init__(self, power: int, bound: Sequence[BoundPenalty]) -> None:
        self._power = power
        self._bound = bound
        self._coefficients = torch.empty(0)
        self.products = torch.empty(0)

    def set(self, values: Mapping[str, Tensor], zeros: Tensor) -> None:
        """Spreads e^λ by name over a vector of zeros, shape (P,)."""
        self._coefficients = zeros
        for penalty in self._bound:
            penalty.spread(values[penalty.name], self._coefficients)
        self._coefficients.mul_(self._power)

    def value(self, weights: Tensor) -> Tensor:
        return torch.dot(self._coefficients, weights.abs() ** self._power) / self._power

    def add_gradient(self, weights: Tensor, out: Tensor) -> None:
        """out += k e^λ |w|^{k-1} sign w."""
        out.addcmul_(self._coefficients, self._slope(weights))

    def begin_products(self, weights: Tensor) -> None:
        self.products = torch.zeros_like(weights)

    def subtract_product(
        self, weights: Tensor, cotangent: Tensor, out: Tensor, share: float
    ) -> None:
        self.subtract_curvature(cotangent, out, share)
        self.products.addcmul_(self._slope(weights), cotangent)

    def subtract_curvature(self, cotangent: Tensor, out: Tensor, share: float = 1.0) -> None:
        """out -= share H u; H is 0 for k = 1."""
        if self._power == 2:
            out.addcmul_(self._coefficients, cotangent, value=-share)

    def add_along(
        self, weights: Tensor, along: Tensor, values: Mapping[str, Tensor], out: Tensor
    ) -> None:
        if self._power == 2:
            out.addcmul_(self._coefficients, along)
        coefficients = torch.zeros_like(out)
        for penalty in self._bound:
            penalty.spread(values[penalty.name], coefficients)
        out.addcmul_(coefficients, self._slope(weights), value=self._power)

    def subtract_totals(self, totals: Mapping[str, Tensor]) -> None:
        for penalty in self._bound:
            totals[penalty.name].sub_(penalty.gather(self.products), alpha=self._power)

    def _slope(self, weights: Tensor) -> Tensor:
        return weights if self._power == 2 else weights.sign()
