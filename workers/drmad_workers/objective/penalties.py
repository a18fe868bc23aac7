"""Penalties Σ_u e^{λ_u} Σ_{j in u} |w_j|^k, k = 1 or 2, with their derivatives written out."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from drmad_workers.hyperparameters.penalty import BoundPenalty


class Penalties:
    """All penalties of one power k, on the flat weights.

    Attributes:
        products: sum of ∂/∂c <∇_w penalty, u> by the coefficient of every weight, shape (P,).
    """

    def __init__(self, power: int, bound: Sequence[BoundPenalty]) -> None:
        self._power = power
        self._bound = bound
        self._coefficients: Tensor | None = None
        self.products = torch.empty(0)

    def set(self, values: Mapping[str, Tensor], zeros: Tensor) -> None:
        """Takes e^λ by name, and a vector of zeros, shape (P,), to spread them over."""
        self._coefficients = zeros
        for penalty in self._bound:
            penalty.spread(values[penalty.name], self._coefficients)
        self._coefficients.mul_(self._power)

    def value(self, weights: Tensor) -> Tensor:
        """The penalty itself, shape ()."""
        assert self._coefficients is not None
        return torch.dot(self._coefficients, weights.abs() ** self._power) / self._power

    def add_gradient(self, weights: Tensor, out: Tensor) -> None:
        """out += k e^λ |w|^{k-1} sign w, shape (P,)."""
        assert self._coefficients is not None
        out.addcmul_(self._coefficients, self._slope(weights))

    def begin_products(self, weights: Tensor) -> None:
        self.products = torch.zeros_like(weights)

    def subtract_product(
        self, weights: Tensor, cotangent: Tensor, out: Tensor, share: float = 1.0
    ) -> None:
        """out -= share H u, shape (P,), H being 0 for k = 1; and keeps what `gather` needs."""
        self.subtract_curvature(cotangent, out, share)
        self.products.addcmul_(self._slope(weights), cotangent)

    def subtract_curvature(self, cotangent: Tensor, out: Tensor, share: float = 1.0) -> None:
        """out -= share H u, shape (P,)."""
        assert self._coefficients is not None
        if self._power == 2:
            out.addcmul_(self._coefficients, cotangent, value=-share)

    def add_along(
        self, weights: Tensor, along: Tensor, values: Mapping[str, Tensor], out: Tensor
    ) -> None:
        """out += H z + (∂²/∂w∂e^λ) e for directions z of the weights, e of the values: (D, P)."""
        assert self._coefficients is not None
        if self._power == 2:
            out.addcmul_(self._coefficients, along)
        coefficients = torch.zeros_like(out)
        for penalty in self._bound:
            penalty.spread(values[penalty.name], coefficients)
        out.addcmul_(coefficients, self._slope(weights), value=self._power)

    def subtract_totals(self, totals: Mapping[str, Tensor]) -> None:
        """totals -= ∂/∂e^λ Σ <∇_w penalty, u> over the products since `begin_products`."""
        for penalty in self._bound:
            totals[penalty.name].sub_(penalty.gather(self.products), alpha=self._power)

    def _slope(self, weights: Tensor) -> Tensor:
        return weights if self._power == 2 else weights.sign()
