"""Products with the second derivatives of the training loss, one way a function.

[Schraudolph2002] Fast curvature matrix-vector products for second-order gradient descent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from drmad_workers.errors import ProblemError
from drmad_workers.objective.losses import Losses, Parts, total
from drmad_workers.problem import Batch

Hvp = Literal["exact", "finite_difference"]

BATCHED_FROM = 4
"""So many products with one Hessian are taken at once, by vmap; fewer are faster one by one."""


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
    gradients: Parts
    loss: Tensor


class Products(Losses):
    """∂/∂(w, λ) <∇_w L(w, λ), u> without the penalties' part.

    Attributes:
        hvp: how they are taken, see Method.
    """

    hvp: Hvp = "exact"

    def product(
        self,
        batch: Batch,
        cotangent: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
        at: Linearization | None = None,
    ) -> tuple[Parts, Parts, Parts]:
        if self.hvp == "exact":
            return self.second_derivatives(batch, cotangent, prepare, at)
        return self.difference_product(batch, cotangent, prepare)

    def second_derivatives(
        self,
        batch: Batch,
        cotangent: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
        at: Linearization | None = None,
    ) -> tuple[Parts, Parts, Parts]:
        """∂<∇_w L, u> by weights, by `leaves`, by what the batch takes of each row-wise λ.

        Penalties left out (but in the ∇_w L that `prepare` is given). None where <∇_w L, u> does
        not depend on it. The graph of `at` is gone afterwards.
        """
        anew = at is None and prepare is None

        def derive() -> Parts:
            begun = at or self.linearize(batch)
            if prepare is not None:
                prepare(self._flat_gradient(begun.gradients))
            outputs, directions = self._paired(begun.gradients, cotangent)
            inputs = [*begun.parameters, *begun.leaves, *begun.rows]
            if not outputs:
                return [None] * len(inputs)
            return torch.autograd.grad(outputs, inputs, directions, allow_unused=True)

        second = self._traced("product", derive, batch, cotangent) if anew else derive()
        first, last = len(self.parameters), len(second) - len(self._row_names)
        return second[:first], second[first:last], second[last:]

    @property
    def convolves(self) -> bool:
        """Whether the model has convolutions."""
        return any(isinstance(module, _ConvNd) for module in self.model.modules())

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
    ) -> tuple[Parts, Parts, Parts]:
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
    ) -> tuple[Parts, Parts, Parts]:
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

    def _paired(self, gradients: Parts, cotangent: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The parts of the gradient that have a derivative, and the parts of u beside them."""
        there = [
            (gradient, part)
            for part, gradient in zip(self.parts(cotangent), gradients, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        return [gradient for gradient, _ in there], [part for _, part in there]
