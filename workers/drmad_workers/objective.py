"""The model seen as a function of one flat weight vector w and the hyperparameters λ.

The trainable parameters are views into `Objective.weights`, shape (P,): writing there moves the
model, and a step of training is a few fused operations on one vector. Penalties have their
derivatives written out; everything else goes through autograd.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from drmad_workers.batches import Examples
from drmad_workers.dynamics import Rate
from drmad_workers.errors import HypergradientNotFinite, ProblemError
from drmad_workers.hyperparameters import (
    BoundClassWeight,
    BoundHyperparameter,
    BoundInitScale,
    BoundPenalty,
    BoundRate,
    BoundSampleWeight,
    BoundTensor,
    BoundTrainingData,
    RateRole,
    Slot,
)
from drmad_workers.penalties import Penalties
from drmad_workers.problem import Batch, Problem

Hvp = Literal["exact", "finite_difference"]

BATCHED_FROM = 4
"""So many products with one Hessian are taken at once, by vmap; fewer are faster one by one."""

EVALUATION_ROWS = 4096
"""Rows of held-out data that go through the model at a time."""


@dataclass(frozen=True, slots=True)
class Linearization:
    """∇_w L on a batch with its graph: a product with its derivative is one backward pass more.

    Attributes:
        batch: where L is taken.
        parameters, leaves, rows: what the graph begins with: the weights, the values that the
            losses take by name, what the batch takes of the row-wise λ.
        gradients: ∇_w L by parameter, penalties left out; None where L does not depend on it.
        loss: L, shape ().
    """

    batch: Batch
    parameters: Sequence[Tensor]
    leaves: Sequence[Tensor]
    rows: Sequence[Tensor]
    gradients: Sequence[Tensor | None]
    loss: Tensor


class Objective:
    """Losses of a problem and their derivatives at the weights that stand in `weights`.

    Attributes:
        hvp: how products with the Hessian are taken, see Method.
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
        """`memory_rows` of the state are the optimizer's; `autocast` takes losses in bfloat16."""
        self.problem = problem
        self.device = device
        self.dtype = dtype
        self.stochastic = False
        self.model: nn.Module = problem.model.to(device=device, dtype=dtype)
        self.parameters: Sequence[Tensor] = trainable(self.model)
        if not self.parameters:
            raise ProblemError("the model must have a parameter that requires a gradient", "model")
        given = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.state = given.new_zeros(1 + memory_rows, len(given))
        self.weights = self.state[0]
        self.weights.copy_(given)
        self.slots = slots
        self._views = [self.weights[slot.start : slot.stop].view(slot.shape) for slot in slots]
        self._sizes = [slot.stop - slot.start for slot in slots]
        self._shapes = [slot.shape for slot in slots]
        self._places = places_of(self.model, self.parameters)
        self._given = self.weights.cpu().clone()
        self._given_buffers = self.buffers()
        trains = self.model.training
        self._modes = [(m, m.training or not trains) for m in self.model.modules()]
        self.bound = dict(bound)
        self.autocast = autocast
        self.hvp: Hvp = "exact"
        penalties = [b for b in bound.values() if isinstance(b, BoundPenalty)]
        self._penalties = [
            Penalties(power, of_power)
            for power in (1, 2)
            if (of_power := [b for b in penalties if b.power == power])
        ]
        self._sample_weight = self._only(BoundSampleWeight)
        self._class_weight = self._only(BoundClassWeight)
        self._training_data = self._only(BoundTrainingData)
        rows = (self._sample_weight, self._training_data)
        self._row_names = [name for name in rows if name is not None]
        self._leaf_names = [b.name for b in bound.values() if isinstance(b, BoundTensor)]
        self._rate_totals: dict[str, Tensor] = {}
        self._constants = self._untuned()
        self.values: dict[str, Tensor] = {}
        self._named: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}

    # ------------------------------------------------------------------ state

    def attach(self) -> None:
        """Makes the model's parameters views into `weights` (again), in training mode."""
        self.model.to(device=self.device, dtype=self.dtype)
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.data = view
        self.train()

    def set_hyperparameters(self, raw: Mapping[str, Tensor]) -> None:
        """Takes λ by name; every bound hyperparameter must be there in its shape."""
        if raw.keys() != self.bound.keys():
            raise ProblemError(
                f"values must be given for {sorted(self.bound)}, got {sorted(raw)}",
                "hyperparameters",
            )
        for name, bound in self.bound.items():
            if raw[name].shape != bound.shape:
                raise ProblemError(
                    f"{name} must have shape {tuple(bound.shape)}, got {tuple(raw[name].shape)}",
                    f"hyperparameters.{name}",
                )
            given = raw[name].detach().to(device=self.device, dtype=self.dtype)
            self.values[name] = bound.value(given)
        for penalty in self._penalties:
            penalty.set(self.values, self.weights.new_zeros(self.weights.shape[-1]))
        self._named = {name: self.values[name] for name in self._leaf_names} | self._constants

    def restore_given(self) -> None:
        """Weights and buffers as the user handed the model over."""
        with torch.no_grad():
            self.weights.copy_(self._given)
            self.restore_buffers(self._given_buffers)

    def initialize(self, seed: int) -> None:
        """The model as it was given, and then w_0 drawn on top of that under the seed.

        Draws from torch's global generator: the caller forks it.
        """
        self.restore_given()
        with torch.no_grad():
            torch.manual_seed(seed)
            (self.problem.initialize or reset_parameters)(self.model)
            for parameter, view in zip(self.parameters, self._views, strict=True):
                if parameter.data_ptr() != view.data_ptr():
                    view.copy_(parameter)
                    parameter.data = view
            for scale in self._scales():
                scale.multiply(self.values[scale.name], self.weights)

    def buffers(self) -> list[Tensor]:
        """Copies of the model's buffers (running statistics)."""
        return [buffer.detach().clone() for buffer in self.model.buffers()]

    def restore_buffers(self, copies: Sequence[Tensor]) -> None:
        for buffer, copy in zip(self.model.buffers(), copies, strict=True):
            buffer.copy_(copy)

    def train(self) -> None:
        """Every module in the mode in which the user handed it over (the model in training)."""
        for module, training in self._modes:
            module.training = training

    def eval(self) -> None:
        self.model.eval()

    # ------------------------------------------------------------------ inner loss

    def inner_gradient(self, batch: Batch, out: Tensor) -> Tensor:
        """Writes ∇_w L(w, λ) on the batch into `out`, shape (P,); returns the loss, shape ().

        The loss returned leaves the penalties out; see `penalty`.
        """
        loss = self._inner_loss(batch, self._rows_of(batch))
        parts = torch.autograd.grad(total(loss), self.parameters, allow_unused=True)
        self._join(parts, out)
        return loss.detach()

    def inner_loss(self, batch: Batch) -> Tensor:
        """The training loss on the batch, with its graph; penalties left out."""
        return self._inner_loss(batch, self._rows_of(batch))

    def penalty(self) -> float:
        """The sum of all penalties at the current weights."""
        return sum(float(penalty.value(self.weights)) for penalty in self._penalties)

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
    ) -> None:
        """(out, dλ) -= ∂/∂(w, λ) <∇_w L(w, λ), u>: one Hessian-vector product.

        Args:
            batch: on which L is taken.
            cotangent: u, shape (P,).
            out: shape (P,); dλ is kept here, see `hypergradient`.
            prepare: given ∇_w L, shape (P,), it writes u into `cotangent` before that is read.
            gauss_newton: takes `gauss_newton_product` in its place.
            at: the gradient there with its graph, where it is known already.
        """
        if gauss_newton:
            found = self.gauss_newton_product(batch, cotangent, prepare)
        else:
            found = self._product(batch, cotangent, prepare, at)
        by_weights, by_leaves, by_rows = found
        self._subtract(by_weights, out)
        for name, part in zip(self._leaf_names, by_leaves, strict=True):
            if part is not None:
                self._totals[name].sub_(part)
        for name, part in zip(self._row_names, by_rows, strict=True):
            if part is not None:
                self._subtract_rows(name, batch.index, part)
        for penalty in self._penalties:
            penalty.subtract_product(self.weights, cotangent, out)

    def subtract_curvature(self, batch: Batch, cotangent: Tensor, out: Tensor) -> None:
        """out -= ∂/∂w <∇_w L(w, λ), u>, shape (P,): `subtract_product` without its part in dλ."""
        self._subtract(self._product(batch, cotangent)[0], out)
        for penalty in self._penalties:
            penalty.subtract_curvature(cotangent, out)

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

    def leaves(self) -> list[Tensor]:
        """The values that the losses take by name and are differentiated by."""
        return [self._named[name] for name in self._leaf_names]

    def second_derivatives(
        self,
        batch: Batch,
        cotangent: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
        at: Linearization | None = None,
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None], Sequence[Tensor | None]]:
        """∂<∇_w L, u> by weights, by `leaves`, by what the batch takes of each row-wise λ.

        Penalties left out (but in the ∇_w L that `prepare` is given). None where <∇_w L, u> does
        not depend on it. The graph of `at` is gone afterwards.
        """
        at = at or self.linearize(batch)
        if prepare is not None:
            prepare(self._flat_gradient(at.gradients))
        outputs, directions = self._paired(at.gradients, cotangent)
        inputs = [*at.parameters, *at.leaves, *at.rows]
        second: Sequence[Tensor | None] = [None] * len(inputs)
        if outputs:
            second = torch.autograd.grad(outputs, inputs, directions, allow_unused=True)
        first, last = len(at.parameters), len(inputs) - len(at.rows)
        return second[:first], second[first:last], second[last:]

    def linearize(self, batch: Batch, weights: Tensor | None = None) -> Linearization:
        """∇_w L with its graph at the current weights, or at others inside of `elsewhere`.

        The others, shape (P,), must not change for as long as the graph is needed.
        """
        parameters: Sequence[Tensor] = self.parameters if weights is None else self._move(weights)
        rows = {name: part.requires_grad_() for name, part in self._rows_of(batch).items()}
        loss = self._inner_loss(batch, rows)
        gradients = torch.autograd.grad(
            total(loss), parameters, create_graph=True, allow_unused=True
        )
        return Linearization(
            batch, parameters, self.leaves(), [*rows.values()], gradients, loss.detach()
        )

    def gradient_of(self, at: Linearization, out: Tensor) -> Tensor:
        """∇_w L of a linearization with its penalties, written into `out`, shape (P,).

        The penalties are taken at `weights`, which must be those of the linearization.
        """
        self._join([None if part is None else part.detach() for part in at.gradients], out)
        return out

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor, shape (..., P), in the shapes of the parameters."""
        lead = flat.shape[:-1]
        return [
            part.view(lead + shape)
            for part, shape in zip(
                torch.split(flat, self._sizes, dim=-1), self._shapes, strict=True
            )
        ]

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Inside, `linearize` may be given other weights than the current ones."""
        try:
            yield
        finally:
            for module, name, number in self._places:
                module._parameters[name] = self.parameters[number]  # type: ignore[assignment]

    def graph_bytes(self, draw: Callable[[], Batch]) -> int | None:
        """Memory of one `linearize` elsewhere; None where the model cannot be moved there.

        It cannot where its code holds parameters by other means than as attributes of modules (in
        lists, in closures, as recurrent layers do): it would go on to compute with those.

        Args:
            draw: gives the same batch twice, and sets the seed of the model's noise.
        """
        buffers = self.buffers()
        here = self.linearize(draw())
        self.restore_buffers(buffers)
        kept: dict[int, int] = {}
        holders: list[list[Tensor]] = []

        def note(tensor: Tensor) -> None:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()

        def hold(tensor: Tensor) -> list[Tensor]:
            note(tensor)
            holders.append([tensor])
            return holders[-1]

        weights = self.weights.detach().clone()
        with self.elsewhere(), torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held[0]):
            there = self.linearize(draw(), weights)
        for holder in holders:  # an output that its own graph holds would never be let go of
            holder.clear()
        self.restore_buffers(buffers)
        for one, other in zip(here.gradients, there.gradients, strict=True):
            if (one is None) != (other is None) or (
                one is not None and other is not None and not torch.allclose(one, other)
            ):
                return None
            if other is not None:
                note(other)
        kept.pop(weights.untyped_storage().data_ptr(), None)
        return sum(kept.values())

    def difference_product(
        self,
        batch: Batch,
        cotangent: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None], Sequence[Tensor | None]]:
        """`second_derivatives` by two gradients: (∂L(w + εu, λ) - ∂L(w - εu, λ)) / 2ε.

        ε |u| = ∛precision (1 + |w|), so that the error of the difference and that of rounding are
        about alike; four to five digits are left in float32.
        """
        if prepare is not None:
            with self._same_noise():
                prepare(self._flat_gradient(self.first_derivatives(batch)[0]))
        center = self.weights.clone()
        length = torch.linalg.vector_norm(cotangent)
        reach = torch.finfo(self.dtype).eps ** (1 / 3) * (1.0 + torch.linalg.vector_norm(center))
        offset = cotangent * (reach / length.clamp_min(torch.finfo(self.dtype).tiny))
        sides = []
        for sign in (1.0, -1.0):
            with self._same_noise():
                torch.add(center, offset, alpha=sign, out=self.weights)
                sides.append(self.first_derivatives(batch))
        self.weights.copy_(center)
        slope = length / (2.0 * reach)
        by_weights, by_leaves, by_rows = (
            [
                None if plus is None or minus is None else (plus - minus).mul_(slope)
                for plus, minus in zip(*parts, strict=True)
            ]
            for parts in zip(*sides, strict=True)
        )
        return by_weights, by_leaves, by_rows

    def first_derivatives(
        self, batch: Batch, create_graph: bool = False
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None], Sequence[Tensor | None]]:
        """∂L by weights, by `leaves`, by what the batch takes of each row-wise λ; no penalties.

        None where L does not depend on it.
        """
        rows = {name: part.requires_grad_() for name, part in self._rows_of(batch).items()}
        inputs = [*self.parameters, *self.leaves(), *rows.values()]
        loss = self._inner_loss(batch, rows)
        parts = torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
        first, last = len(self.parameters), len(inputs) - len(rows)
        return parts[:first], parts[first:last], parts[last:]

    def gradient_along(
        self, batch: Batch, weights: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """∇_w L, and its derivatives along z and e: H z + (∂²L/∂w∂λ) e, shapes (P,) and (D, P).

        One pass forwards and one backwards for all of them, then <∂L/∂w, z> + <∂L/∂λ, e> is
        differentiated by w, as second derivatives commute; many at once from BATCHED_FROM on.

        Args:
            batch: on which L is taken.
            weights: directions z of the weights, shape (D, P).
            values: directions e of the values by name, shape (D, *shape of λ).
        """
        by_weights, by_leaves, by_rows = self.first_derivatives(batch, create_graph=True)
        count = len(weights)
        parts = [weights[:, slot.start : slot.stop].view(count, *slot.shape) for slot in self.slots]
        parts += [values[name] for name in self._leaf_names]
        parts += [values[name].index_select(1, batch.index) for name in self._row_names]
        pairs = [
            (derivative, part)
            for derivative, part in zip((*by_weights, *by_leaves, *by_rows), parts, strict=True)
            if derivative is not None and derivative.requires_grad
        ]
        out = torch.zeros_like(weights)
        if pairs:
            outputs = [derivative for derivative, _ in pairs]
            at_once = count if count >= BATCHED_FROM else 1
            for first in range(0, count, at_once):
                directions = [part[first : first + at_once] for _, part in pairs]
                second = torch.autograd.grad(
                    outputs,
                    self.parameters,
                    directions if at_once > 1 else [part[0] for part in directions],
                    allow_unused=True,
                    retain_graph=True,
                    is_grads_batched=at_once > 1,
                )
                for slot, found in zip(self.slots, second, strict=True):
                    if found is not None:
                        out[first : first + at_once, slot.start : slot.stop].copy_(
                            found.view(at_once, -1)
                        )
        for penalty in self._penalties:
            penalty.add_along(self.weights, weights, values, out)
        return self._flat_gradient(by_weights), out

    def require_outputs(self) -> None:
        """Raises ProblemError unless the training loss is one of the model's outputs."""
        if self.problem.inner_loss is not None:
            raise ProblemError(
                "curvature gauss_newton needs the problem's `loss` of outputs and targets, and "
                "this problem has an inner_loss of its own: use curvature hessian",
                "hypergradient.curvature",
            )

    def gauss_newton_product(
        self,
        batch: Batch,
        cotangent: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None], Sequence[Tensor | None]]:
        """`second_derivatives` with JᵀHJ u in the place of the Hessian's product by weights.

        With outputs z(w), J = ∂z/∂w, loss ℓ(z), g = ∂ℓ/∂z and H = ∂g/∂z ([Schraudolph2002], Fast
        curvature matrix-vector products): ∇_w L = Jᵀg, and <Jᵀg, u> = <g, J u> is differentiated
        by w through g alone. J u is its derivative by g. Those by λ are exact.
        """
        rows = {name: part.requires_grad_() for name, part in self._rows_of(batch).items()}
        leaves, data = self.leaves(), self._training_data
        with self._precision():
            outputs = self.model(batch.inputs if data is None else rows[data])
        at = outputs.detach().requires_grad_()
        by_outputs = torch.autograd.grad(self._loss_of(at, batch, rows), at, create_graph=True)[0]
        pulled = by_outputs.detach().requires_grad_()
        gradients = torch.autograd.grad(
            outputs, self.parameters, pulled, create_graph=True, allow_unused=True
        )
        if prepare is not None:
            prepare(self._flat_gradient(gradients))
        through = [pulled] if data is None else [pulled, rows[data]]
        parts, directions = self._paired(gradients, cotangent)
        along, *by_data = torch.autograd.grad(parts, through, directions, retain_graph=True)
        inputs = [at, *leaves, *rows.values()]
        by_at, *by_rest = torch.autograd.grad(
            by_outputs, inputs, along, allow_unused=True, materialize_grads=True
        )
        wanted = self.parameters if data is None else [*self.parameters, rows[data]]
        by_wanted = torch.autograd.grad(outputs, wanted, by_at, allow_unused=True)
        by_leaves, by_rows = by_rest[: len(leaves)], by_rest[len(leaves) :]
        if data is not None:
            by_rows[self._row_names.index(data)] = by_data[0] + by_wanted[-1]
        return by_wanted[: len(self.parameters)], by_leaves, by_rows

    def _paired(
        self, gradients: Sequence[Tensor | None], cotangent: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The parts of the gradient that have a derivative, and the parts of u beside them."""
        there = [
            (gradient, part)
            for part, gradient in zip(self.parts(cotangent), gradients, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        return [gradient for gradient, _ in there], [part for _, part in there]

    # ------------------------------------------------------------------ rates and first weights

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

    # ------------------------------------------------------------------ outer loss

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

    def outer_loss(self, batch: Batch) -> Tensor:
        with self._precision():
            if self.problem.outer_loss is not None:
                return self.problem.outer_loss(self.model, self._named, batch).to(self.dtype)
            losses = self.problem.loss(self.model(batch.inputs), batch.targets)
        return losses.to(self.dtype).mean()

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

    def all_values(self) -> dict[str, Tensor]:
        """Transformed values of every hyperparameter by name, tuned or not, on the CPU."""
        return {name: v.cpu() for name, v in (self.values | self._constants).items()}

    # ------------------------------------------------------------------ internals

    def _inner_loss(self, batch: Batch, rows: Mapping[str, Tensor]) -> Tensor:
        if self._training_data is not None:
            batch = Batch(rows[self._training_data], batch.targets, batch.index)
        with self._precision():
            if self.problem.inner_loss is not None:
                return self.problem.inner_loss(self.model, self._named, batch).to(self.dtype)
            outputs = self.model(batch.inputs)
        return self._loss_of(outputs, batch, rows)

    def _loss_of(self, outputs: Tensor, batch: Batch, rows: Mapping[str, Tensor]) -> Tensor:
        """The mean over the batch of the problem's `loss`, weighed as the hyperparameters say."""
        with self._precision():
            losses = self.problem.loss(outputs, batch.targets)
        losses = losses.to(self.dtype)
        if self._class_weight is not None:
            losses = losses * self._named[self._class_weight].index_select(0, batch.targets)
        if self._sample_weight is None:
            return losses.mean()
        return torch.dot(losses, rows[self._sample_weight]) / len(losses)

    def _rows_of(self, batch: Batch) -> dict[str, Tensor]:
        """What the batch takes of the hyperparameters with one entry per training example."""
        return {name: self.values[name].index_select(0, batch.index) for name in self._row_names}

    def _product(
        self,
        batch: Batch,
        cotangent: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
        at: Linearization | None = None,
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None], Sequence[Tensor | None]]:
        if self.hvp == "exact":
            return self.second_derivatives(batch, cotangent, prepare, at)
        return self.difference_product(batch, cotangent, prepare)

    def _subtract(self, parts: Sequence[Tensor | None], out: Tensor) -> None:
        for view, part in zip(self.parts(out), parts, strict=True):
            if part is not None:
                view.sub_(part)

    def _subtract_rows(self, name: str, index: Tensor, part: Tensor) -> None:
        """Derivatives by what a batch took of a row-wise λ, to their places in its total."""
        self._totals[name].index_add_(0, index, part, alpha=-1)

    def _same_noise(self) -> AbstractContextManager[None]:
        """What the model draws inside is drawn again after it."""
        devices = [self.device] if self.device.type == "cuda" else []
        return torch.random.fork_rng(devices, enabled=self.stochastic)

    def _flat_gradient(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """∇_w L with its penalties, from the parts that autograd gave."""
        flat = torch.empty_like(self.weights)
        self._join([None if part is None else part.detach() for part in gradients], flat)
        return flat

    def _join(self, parts: Sequence[Tensor | None], out: Tensor) -> None:
        """Writes ∇_w L with its penalties into `out`, shape (P,), from what autograd gave."""
        flat = [
            self.weights.new_zeros(size) if part is None else part.reshape(-1)
            for part, size in zip(parts, self._sizes, strict=True)
        ]
        torch.cat(flat, out=out)
        for penalty in self._penalties:
            penalty.add_gradient(self.weights, out)

    def _move(self, weights: Tensor) -> Sequence[Tensor]:
        """Leaves of autograd's at these weights, put in the place of the model's parameters."""
        leaves = [part.requires_grad_() for part in self.parts(weights.detach())]
        for module, name, number in self._places:
            module._parameters[name] = leaves[number]  # type: ignore[assignment]
        return leaves

    def _precision(self) -> AbstractContextManager[object]:
        if self.autocast:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _scales(self) -> list[BoundInitScale]:
        return [b for b in self.bound.values() if isinstance(b, BoundInitScale)]

    def _only(self, kind: type[BoundHyperparameter]) -> str | None:
        """The name of the hyperparameter of this kind, of which there is one at most."""
        names = [bound.name for bound in self.bound.values() if type(bound) is kind]
        if len(names) > 1:
            raise ProblemError(
                f"there can be one {kind.what} only, got {', '.join(names)}",
                f"hyperparameters.{names[1]}",
            )
        return names[0] if names else None

    def _untuned(self) -> dict[str, Tensor]:
        """Values of the problem's own hyperparameters that nobody asked to tune."""
        untuned: dict[str, Tensor] = {}
        for name, stated in self.problem.hyperparameters.items():
            if name not in self.bound:
                init = stated.init.detach().to(device=self.device, dtype=self.dtype)
                bound = BoundTensor(name, init, stated.transform, None, None, [])
                untuned[name] = bound.value(init)
        return untuned


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The elementary parameters: those that require a gradient, shared ones once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def total(loss: Tensor) -> Tensor:
    """One number to differentiate by: the sum over replicas, where there are several."""
    return loss if loss.ndim == 0 else loss.sum()


def places_of(model: nn.Module, parameters: Sequence[Tensor]) -> list[tuple[nn.Module, str, int]]:
    """Every module and attribute that holds one of the parameters, and its number."""
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    return [
        (module, name, numbers[id(parameter)])
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in numbers
    ]


def reset_parameters(model: nn.Module) -> None:
    """Draws fresh weights by every module's own `reset_parameters`; frozen ones stay."""

    def reset(module: nn.Module) -> None:
        own = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        parameters = list(module.parameters())
        if own is None or (parameters and not any(p.requires_grad for p in parameters)):
            return
        frozen = [(p, p.detach().clone()) for p in parameters if not p.requires_grad]
        own()
        for parameter, value in frozen:
            parameter.copy_(value)

    model.apply(reset)
