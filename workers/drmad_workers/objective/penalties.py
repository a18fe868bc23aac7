"""Penalties Σ_u e^{λ_u} Σ_{j in u} |w_j|^k, k = 1 or 2, with their derivatives written out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.penalty import Block, BoundPenalty
from drmad_workers.objective.parameters.cached_parts import parts_of
from drmad_workers.objective.parameters.flat_parameters import is_large


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
            penalty.set(values, weights)

    def value(self, weights: Tensor) -> float:
        """The sum of the penalties at weights of shape (P,)."""
        return sum(penalty.value(weights) for penalty in self._powers)

    def add_gradient(self, weights: Tensor, out: Tensor) -> None:
        """out += ∇_w of the penalties, shape (..., P)."""
        for penalty in self._powers:
            penalty.add_gradient(weights, out)

    def begin_products(self, weights: Tensor) -> None:
        for penalty in self._powers:
            penalty.begin_products(weights)

    def end_products(self) -> None:
        """Frees the products."""
        for penalty in self._powers:
            penalty.begin_products(None)

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
            penalty.add_products(replica, other)

    def subtract_totals(self, totals: Mapping[str, Tensor]) -> None:
        """totals -= ∂/∂e^λ Σ <∇_w penalty, u> over the products since `begin_products`."""
        for penalty in self._powers:
            penalty.subtract_totals(totals)


@dataclass
class Term:
    """A penalty c |w|^k / k on the weights start .. stop, with a coefficient c = k e^λ for each.

    Attributes:
        start, stop: the weights in the flat vector.
        view: their shape.
        coefficients: c, which broadcasts to `view`.
        products: the sum of ∂/∂c <∇_w penalty, u>, in the shape of c, or (R, ..) with R replicas;
            None outside of a backward pass.
        origin: the penalty of which the term is one block; None if it has all blocks of all.
    """

    start: int
    stop: int
    view: tuple[int, ...]
    coefficients: Tensor
    products: Tensor | None = None
    origin: tuple[BoundPenalty, Block] | None = None

    def part(self, flat: Tensor) -> Tensor:
        """The term's part of a flat tensor, from shape (..., P) to (..., *view)."""
        return flat[..., self.start : self.stop].view(*flat.shape[:-1], *self.view)

    def value(self, weights: Tensor, power: int) -> Tensor:
        """Σ c |w|^k, shape ()."""
        part, sizes = self.part(weights), self.coefficients.shape
        summed = [axis for axis, size in enumerate(sizes) if size < part.shape[axis]]
        if summed:  # the norm holds no powers
            powers = torch.linalg.vector_norm(part, power, dim=summed, keepdim=True) ** power
        else:
            powers = part.abs() ** power
        total: Tensor = (powers * self.coefficients).sum()
        return total

    def begin_products(self, weights: Tensor | None) -> None:
        """Sets the products to zero; frees them for None."""
        if weights is None:
            self.products = None
        else:
            shape = (*weights.shape[:-1], *self.coefficients.shape)
            self.products = weights.new_zeros(shape)

    def add_product(self, slope: Tensor, cotangent: Tensor) -> None:
        """Adds ∂/∂c <c slope, u>, for a slope and u of shape (..., *view)."""
        assert self.products is not None
        if self.products.shape == slope.shape:
            self.products.addcmul_(slope, cotangent)
        elif self.products.numel() == 1:
            slope, cotangent = slope.reshape(-1), cotangent.reshape(-1)
            for part in parts_of(slope):
                self.products.add_((slope[part] * cotangent[part]).sum())
        else:
            self.products.add_((slope * cotangent).sum_to_size(self.products.shape))


class PowerPenalty:
    """All penalties of one power k.

    It acts term by term. A single term covers all weights, so that one operation acts on all of
    them. Where the weights are large (LARGE_BYTES), every penalised parameter is a term instead,
    with coefficients in the shape of its part of λ: nothing of the size of the weights is held.
    """

    def __init__(self, power: int, bound: Sequence[BoundPenalty]) -> None:
        self._power = power
        self._bound = bound
        self._terms: list[Term] = []

    def set(self, values: Mapping[str, Tensor], weights: Tensor) -> None:
        """Takes e^λ by name, for weights of shape (..., P)."""
        count, power = weights.shape[-1], self._power
        if not is_large(weights):
            coefficients = weights.new_zeros(count)
            for penalty in self._bound:
                penalty.spread(values[penalty.name], coefficients)
            self._terms = [Term(0, count, (count,), coefficients.mul_(power))]
            return
        self._terms = []
        for penalty in self._bound:
            for block in penalty.blocks:
                value = values[penalty.name][block.first : block.last]
                coefficients = value.view(block.keep) * power
                place = (block.start, block.stop, block.view)
                self._terms.append(Term(*place, coefficients, origin=(penalty, block)))

    def value(self, weights: Tensor) -> float:
        return sum(float(term.value(weights, self._power)) for term in self._terms) / self._power

    def add_gradient(self, weights: Tensor, out: Tensor) -> None:
        """out += k e^λ |w|^{k-1} sign w."""
        for term in self._terms:
            term.part(out).addcmul_(term.coefficients, self._slope(term.part(weights)))

    def begin_products(self, weights: Tensor | None) -> None:
        """Sets the products to zero; frees them for None."""
        for term in self._terms:
            term.begin_products(weights)

    def subtract_product(
        self, weights: Tensor, cotangent: Tensor, out: Tensor, share: float
    ) -> None:
        self.subtract_curvature(cotangent, out, share)
        for term in self._terms:
            term.add_product(self._slope(term.part(weights)), term.part(cotangent))

    def subtract_curvature(self, cotangent: Tensor, out: Tensor, share: float = 1.0) -> None:
        """out -= share H u; H is 0 for k = 1."""
        if self._power == 2:
            for term in self._terms:
                term.part(out).addcmul_(term.coefficients, term.part(cotangent), value=-share)

    def add_along(
        self, weights: Tensor, along: Tensor, values: Mapping[str, Tensor], out: Tensor
    ) -> None:
        if self._power == 2:
            for term in self._terms:
                term.part(out).addcmul_(term.coefficients, term.part(along))
        for penalty in self._bound:
            for start, stop, view, keep, first, last in penalty.blocks:
                coefficients = values[penalty.name][:, first:last].view(-1, *keep)
                slope = self._slope(weights[start:stop].view(view))
                target = out[:, start:stop].view(-1, *view)
                target.addcmul_(coefficients, slope, value=self._power)

    def add_products(self, replica: int, stacked: "PowerPenalty") -> None:
        for term, other in zip(self._terms, stacked._terms, strict=True):
            assert term.products is not None
            assert other.products is not None
            term.products.add_(other.products[replica])

    def subtract_totals(self, totals: Mapping[str, Tensor]) -> None:
        for term in self._terms:
            assert term.products is not None
            if term.origin is not None:
                penalty, block = term.origin
                target = totals[penalty.name][block.first : block.last]
                target.sub_(term.products.reshape(-1), alpha=self._power)
                continue
            for penalty in self._bound:
                gathered = penalty.gather(term.products)
                totals[penalty.name].sub_(gathered, alpha=self._power)

    def _slope(self, weights: Tensor) -> Tensor:
        return weights if self._power == 2 else weights.sign()
