"""The derivatives of the outer loss by the hyperparameters, as a walk back gathers them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.errors import HypergradientNotFinite
from drmad_workers.hyperparameters.kinds import BoundHyperparameter, BoundRate, RateRole, Slot
from drmad_workers.objective.losses import Parts
from drmad_workers.objective.products import Linearization, Products
from drmad_workers.problem import Batch, Problem
from drmad_workers.training.optimizers import Rate

EVALUATION_ROWS = 4096
"""Rows of held-out data that go through the model at a time."""


class Objective(Products):
    """Losses of a problem, products with their derivatives, and dλ.

    dλ gathers between `begin_products` and `hypergradient`.
    """

    def __init__(
        self,
        problem: Problem,
        bound: Mapping[str, BoundHyperparameter],
        slots: Sequence[Slot],
        device: torch.device,
        dtype: torch.dtype,
        memory_rows: int = 1,
        autocast: bool = False,
    ) -> None:
        super().__init__(problem, bound, slots, device, dtype, memory_rows, autocast)
        self._totals: dict[str, Tensor] = {}
        self._rate_totals: dict[str, Tensor] = {}

    def begin_products(self) -> None:
        """Empties the sums that `subtract_product` and `outer_gradient` add to."""
        self._totals = {name: torch.zeros_like(value) for name, value in self.values.items()}
        for name in self._leaf_names:
            self._named[name] = self.values[name].detach().requires_grad_()
        for name, total in self._rate_totals.items():
            self._totals[name] = total.zero_()
        for penalty in self._penalties:
            penalty.begin_products(self.weights)

    def subtract_product(
        self,
        batch: Batch,
        cotangent: Tensor,
        out: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
        gauss_newton: bool = False,
        at: Linearization | None = None,
        share: float = 1.0,
    ) -> None:
        """(out, dλ) -= ∂/∂(w, λ) <∇_w L(w, λ), u>: one Hessian-vector product.

        Args:
            batch: on which L is taken.
            cotangent: u, shape (P,).
            out: shape (P,); dλ is kept here, see `hypergradient`.
            prepare: given ∇_w L, shape (P,), it writes u into `cotangent` before that is read.
            gauss_newton: takes `gauss_newton_product` in its place.
            at: the gradient there with its graph, where it is known already.
            share: of ∂/∂w that is taken; dλ takes all of ∂/∂λ.
        """
        if gauss_newton:
            found = self.gauss_newton_product(batch, cotangent, prepare)
        else:
            found = self.product(batch, cotangent, prepare, at)
        by_weights, by_leaves, by_rows = found
        self._subtract(by_weights, out, share)
        for name, part in zip(self._leaf_names, by_leaves, strict=True):
            if part is not None:
                self._totals[name].sub_(part)
        for name, part in zip(self._row_names, by_rows, strict=True):
            if part is not None:
                self._subtract_rows(name, batch.index, part)
        for penalty in self._penalties:
            penalty.subtract_product(self.weights, cotangent, out, share)

    def subtract_curvature(self, batch: Batch, cotangent: Tensor, out: Tensor) -> None:
        """out -= ∂/∂w <∇_w L(w, λ), u>, shape (P,): `subtract_product` without its part in dλ."""
        self._subtract(self.product(batch, cotangent)[0], out)
        for penalty in self._penalties:
            penalty.subtract_curvature(cotangent, out)

    def rows_visited(self) -> Tensor | None:
        """Zeros to count examples in, shape (training examples,); None where no λ has such rows."""
        if not self._row_names:
            return None
        total = self._totals[self._row_names[0]]
        rows = self.bound[self._row_names[0]].shape[0]
        return total.new_zeros(*self.weights.shape[:-1], rows)

    def multiply_rows(self, factor: Tensor) -> None:
        """dλ_i *= factor_i for the λ with one entry per example; shape (training examples,)."""
        for name in self._row_names:
            total = self._totals[name]
            total.mul_(factor.view(factor.shape + (1,) * (total.ndim - factor.ndim)))

    def add_products(self, totals: Mapping[str, Tensor], by_penalty: Sequence[Tensor]) -> None:
        """Adds what another objective of the same kind has gathered since `begin_products`."""
        for name, part in totals.items():
            self._totals[name].add_(part)
        for penalty, part in zip(self._penalties, by_penalty, strict=True):
            penalty.products.add_(part)

    def end_products(self) -> None:
        """Lets go of the sums; the values no longer ask for a derivative."""
        self._totals = {}
        for name in self._leaf_names:
            self._named[name] = self.values[name]

    def rate(self, role: RateRole, constant: float) -> Rate:
        """The learning rate or the momentum of every step: `constant` where nobody tunes it.

        Its derivative gathers in dλ from `begin_products` on.
        """
        sizes = [slot.stop - slot.start for slot in self.slots]
        for name, bound in self.bound.items():
            if isinstance(bound, BoundRate) and bound.role == role:
                values = self.values[name]
                total = self._rate_totals.setdefault(name, torch.zeros_like(values))
                return Rate(values.view(bound.layout), sizes, total.view(bound.layout))
        return Rate(constant, sizes)

    @property
    def scales_initial_weights(self) -> bool:
        return bool(self._scales())

    def add_initial(self, d_weights: Tensor) -> None:
        """dλ += (∂w_0/∂λ)ᵀ dw, where w_0 stands in `weights` and dw has shape (P,)."""
        for scale in self._scales():
            value = self.values[scale.name]
            self._totals[scale.name].add_(scale.gather(self.weights * d_weights) / value)

    def initial_along(self, values: Mapping[str, Tensor]) -> Tensor:
        """∂w_0 along directions e of the values, shape (D, P), where w_0 stands in `weights`."""
        directions = next(iter(values.values()))
        out = self.weights.new_zeros(len(directions), len(self.weights))
        for scale in self._scales():
            relative = values[scale.name] / self.values[scale.name]
            scale.spread(relative, self.weights, out)
        return out

    def add_totals(self, along: Tensor) -> None:
        """dλ += the derivatives by every value, joined in the order of `bound`, shape (D,)."""
        parts = torch.split(along, [bound.initial.numel() for bound in self.bound.values()])
        for (name, bound), part in zip(self.bound.items(), parts, strict=True):
            self._totals[name].add_(part.view(bound.shape))

    def outer_gradient(self, examples: Examples, out: Tensor, poll: Callable[[], None]) -> Tensor:
        """Writes ∇_w of the held-out objective into `out`; its ∂/∂λ joins dλ. Returns its value.

        The model is in evaluation mode: running statistics stand for those of the batch.
        """
        self.eval()
        out.zero_()
        value = torch.zeros((), dtype=self.dtype, device=self.device)
        leaves = self.leaves()
        for batch in examples.chunks(EVALUATION_ROWS):
            poll()
            share = len(batch.index) / examples.rows
            loss = self.outer_loss(batch)
            parts = torch.autograd.grad(
                loss, [*self.parameters, *leaves], allow_unused=True, materialize_grads=True
            )
            count = len(self.parameters)
            out.add_(torch.cat([part.reshape(-1) for part in parts[:count]]), alpha=share)
            for name, part in zip(self._leaf_names, parts[count:], strict=True):
                self._totals[name].add_(part, alpha=share)
            value.add_(loss.detach(), alpha=share)
        self.train()
        return value

    def hypergradient(self) -> dict[str, Tensor]:
        """dλ by name, through the transforms, as gathered since `begin_products`; on the CPU.

        Raises:
            HypergradientNotFinite: some of it is nan or infinite.
        """
        for penalty in self._penalties:
            penalty.subtract_totals(self._totals)
        gradient = {
            name: bound.chain(self.values[name], self._totals[name]).cpu()
            for name, bound in self.bound.items()
        }
        self.end_products()
        for name, part in gradient.items():
            wrong = int((~part.isfinite()).sum())
            if wrong:
                raise HypergradientNotFinite(name, wrong, part.numel())
        return gradient

    def require_finite(self, step: int) -> None:
        """Raises HypergradientNotFinite when what has gathered up to this step is not finite."""
        for name, part in self._totals.items():
            wrong = int((~part.isfinite()).sum())
            if wrong:
                raise HypergradientNotFinite(name, wrong, part.numel(), step)

    def _subtract(self, parts: Parts, out: Tensor, share: float = 1.0) -> None:
        for view, part in zip(self.parts(out), parts, strict=True):
            if part is not None:
                view.sub_(part, alpha=share)

    def _subtract_rows(self, name: str, index: Tensor, part: Tensor) -> None:
        """Derivatives by what a batch took of a row-wise λ, to their places in its total."""
        self._totals[name].index_add_(0, index, part, alpha=-1)
