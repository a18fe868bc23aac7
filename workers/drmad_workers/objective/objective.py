"""The two objectives of a bilevel problem with the accumulated hypergradient."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.distributed.workers import ALONE, Workers, share_of
from drmad_workers.hyperparameters.base import BoundHyperparameter, Slot
from drmad_workers.objective.autograd.cuts import through_cuts
from drmad_workers.objective.autograd.differentiable_forward import DifferentiableForward
from drmad_workers.objective.autograd.streamed_derivatives import Use, placeholder
from drmad_workers.objective.gradient_sums import GradientSums, require_finite
from drmad_workers.objective.held_out_rows import HeldOutRows
from drmad_workers.objective.inner import Derivatives, InnerObjective, Linearization, joined
from drmad_workers.objective.losses import Losses, StackedLoss
from drmad_workers.objective.parameters.flat_parameters import FlatParameters, Parts
from drmad_workers.objective.parameters.held_values import loss_modules
from drmad_workers.objective.penalties import Penalties
from drmad_workers.objective.products.exact import exact_product
from drmad_workers.objective.products.of_queries import carried_product
from drmad_workers.objective.products.product import Product
from drmad_workers.objective.values import HyperparameterValues
from drmad_workers.problem import Batch, Problem


class Objective:
    """The inner and the outer objective of one replica, or of R replicas side by side.

    Between `begin_products` and `hypergradient` (or `end_products`) dλ accumulates in `sums`. With
    R replicas only the inner objective and its products exist; each replica has an objective of
    its own for the rest, see `add_replica`.

    Attributes:
        problem: what the user stated.
        parameters: the weights, the optimizer's memory and the carried values.
        values: the hyperparameters λ.
        losses: the losses of one replica.
        penalties: the penalties on the weights.
        inner: the inner objective L(w, λ).
        product: the product with second derivatives of L.
        sums: dλ.
        held_out: the rows of held-out data that a pass takes.
        workers: those that share the training run; see `share`.
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
        replicas: int | None = None,
        held_out: HeldOutRows | None = None,
        batch_size: int = 1,
        rounding: float | None = None,
    ) -> None:
        """
        Args:
            problem: the model, its data and its losses.
            bound: the tuned hyperparameters by name.
            slots: the positions of the parameters in the flat vector.
            device, dtype: those of all tensors.
            memory_rows: the rows of the optimizer's memory.
            autocast: whether losses are evaluated in bfloat16.
            replicas: R; None for one replica.
            held_out: the rows of held-out data that a pass takes; None chooses them.
            batch_size: the rows of a minibatch; a joined batch has a multiple of it.
            rounding: see Losses.
        """
        self.problem = problem
        losses = (problem.loss, problem.inner_loss)
        modules = loss_modules((*losses, problem.outer_loss, *problem.metrics.values()))
        self.parameters = FlatParameters(
            problem.model, slots, device, dtype, memory_rows, replicas, losses, modules
        )
        self.values = HyperparameterValues(problem, bound, device, dtype, replicas)
        self.losses = Losses(problem, self.parameters, self.values, autocast, batch_size, rounding)
        self.penalties = Penalties(bound.values())
        self.inner = InnerObjective(
            self.losses,
            self.losses.inner
            if replicas is None
            else StackedLoss(self.losses, self.parameters, self.values),
            self.parameters,
            self.values,
            self.penalties,
        )
        self.product: Product = exact_product
        self.sums = GradientSums(self.values)
        self.held_out = held_out or HeldOutRows()
        self.workers: Workers = ALONE

    def stacked(self, replicas: int) -> "Objective":
        """The objective of R replicas of the same problem side by side."""
        parameters = self.parameters
        return Objective(
            self.problem,
            self.values.bound,
            parameters.slots,
            parameters.device,
            parameters.dtype,
            len(parameters.state) - 1,
            self.losses.autocast,
            replicas,
            batch_size=self.losses.weighting.batch_size,
            rounding=self.losses.rounding,
        )

    def share(self, workers: Workers) -> None:
        """Has the workers share the training run: each of them takes its rows of a batch."""
        self.workers = self.inner.workers = self.sums.workers = workers
        self.losses.share = share_of(self.losses.weighting.batch_size, workers)

    def set_hyperparameters(self, raw: Mapping[str, Tensor]) -> None:
        """Takes λ by name; requires every bound hyperparameter in its shape."""
        self.values.set(raw)
        self.penalties.set(self.values.by_name, self.parameters.weights)

    def begin_products(self) -> None:
        """Sets dλ to zero and makes the leaves differentiable."""
        self.sums.begin()
        self.values.differentiate()
        self.penalties.begin_products(self.parameters.weights)

    def end_products(self) -> None:
        """Frees dλ."""
        self.sums.end()
        self.values.release()
        self.penalties.end_products()

    def subtract_product(
        self,
        batch: Batch,
        cotangent: Tensor,
        out: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
        at: Linearization | None = None,
        share: float = 1.0,
        product: Product | None = None,
        carried: Tensor | None = None,
        times: int = 1,
    ) -> None:
        """(out, dλ) -= ∂/∂(w, λ) <∇_w L(w, λ), u>: one Hessian-vector product.

        With carried values b, whose adjoint after the step is db, the number that is
        differentiated is <∇_w L, u> - <b', db>, and db becomes the adjoint before the step.

        Args:
            batch, cotangent, prepare, at, times: see Product.
            out: shape (..., P); of N queries (N, P), as the cotangents are.
            share: the share of ∂/∂w <∇_w L, u> that is subtracted; dλ takes all of ∂/∂λ.
            product: replaces `self.product`.
            carried: db, shape (Q,) or (N, Q), which is replaced; None if there are no carried
                values.
        """
        product, inner = product or self.product, self.inner
        use = self._subtracting(out, share)
        if carried is None or share == 1.0:
            found = self._summed(product(inner, batch, cotangent, prepare, at, carried, times, use))
            self._subtract_by_parameters(found.by_parameters, out, share)
        else:
            found = self._summed(product(inner, batch, cotangent, prepare, at, use=use))
            self._subtract_by_parameters(found.by_parameters, out, share)
            by_update = carried_product(inner, batch, carried, times)
            self._subtract_by_parameters(by_update.by_parameters, out)
            found = joined(found, by_update)
        if carried is not None and found.by_carried is not None:
            torch.neg(found.by_carried, out=carried)
        self.sums.subtract(batch.index, found.by_leaves, found.by_rows)
        self.penalties.subtract_product(self.parameters.weights, cotangent, out, share)

    def subtract_curvature(self, batch: Batch, cotangent: Tensor, out: Tensor) -> None:
        """out -= ∂/∂w <∇_w L(w, λ), u>, shape (P,): `subtract_product` without its part in dλ."""
        use = self._subtracting(out)
        found = self._summed(self.product(self.inner, batch, cotangent, use=use))
        self._subtract_by_parameters(found.by_parameters, out)
        self.penalties.subtract_curvature(cotangent, out)

    def outer_gradient(
        self,
        examples: Examples,
        out: Tensor,
        carried: Tensor,
        poll: Callable[[], None],
        measure: Callable[[Batch], Tensor] | None = None,
    ) -> Tensor:
        """Writes the derivatives of the outer objective, adds its ∂/∂λ to dλ, returns its value.

        The model is in evaluation mode: running statistics replace those of the batch. The
        derivatives are those of the value, through everything that the loss cuts off.

        Args:
            examples: the held-out examples.
            out, carried: take the derivatives by the weights and the carried values, (P,) and (Q,).
            poll: called before each part of the examples.
            measure: replaces the held-out objective: a mean over the rows, shape ().
        """
        measure = measure or self.losses.outer
        parameters = self.parameters
        parameters.eval()
        parameters.load_carried()
        out.zero_()
        carried.zero_()
        value = torch.zeros((), dtype=parameters.dtype, device=parameters.device)
        by_leaves = [torch.zeros_like(leaf) for leaf in self.values.leaves()]
        own = examples.of_worker(self.workers)

        def derive(batch: Batch) -> tuple[Tensor, Sequence[Tensor], Tensor]:
            poll()
            begun = parameters.carried.begin(parameters.carried_flat)
            with DifferentiableForward(begun.given) as forward:
                loss = measure(batch)
            by_carried = torch.empty_like(carried)
            begun.end(forward.carried, by_carried)
            inputs = [*parameters.tensors, *self.values.leaves(), *begun.leaves]
            with through_cuts():
                parts = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
            last = len(inputs) - len(begun.leaves)
            begun.flatten(parts[last:], by_carried)
            return loss.detach(), parts[:last], by_carried

        count, views = len(parameters.tensors), parameters.parts(out)
        for (loss, parts, by_carried), share_of_own in self.held_out.over(own, derive):
            share = share_of_own * own.rows / examples.rows
            for view, part in zip(views, parts[:count], strict=True):
                view.add_(part, alpha=share)
            for total, part in zip(by_leaves, parts[count:], strict=True):
                total.add_(part, alpha=share)
            carried.add_(by_carried, alpha=share)
            value.add_(loss, alpha=share)
        parameters.train()
        self.workers.sum(out, value, *by_leaves)
        self.sums.add_leaves(by_leaves, 1.0)
        return value

    def _summed(self, found: Derivatives) -> Derivatives:
        """The derivatives summed over the workers, but those by rows, which stay with the rows."""
        if self.workers.size == 1:
            return found
        flat = torch.empty_like(self.parameters.weights)
        self.parameters.join(found.by_parameters, flat)
        by_leaves = [
            torch.zeros_like(leaf) if part is None else part.detach().clone().contiguous()
            for leaf, part in zip(self.values.leaves(), found.by_leaves, strict=True)
        ]
        self.workers.sum(flat, *by_leaves)
        return found._replace(by_parameters=self.parameters.parts(flat), by_leaves=by_leaves)

    def _subtracting(self, out: Tensor, share: float = 1.0) -> Use | None:
        """Subtracts each derivative of a large model from its part of `out`.

        None where workers first sum them, and where the derivatives need little memory.
        """
        if self.workers.size > 1 or not self.parameters.are_large:
            return None
        views = self.parameters.parts(out)

        def subtract(number: int, part: Tensor) -> Tensor:
            views[number].sub_(part, alpha=share)
            return placeholder(part)

        return subtract

    def _subtract_by_parameters(self, parts: Parts, out: Tensor, share: float = 1.0) -> None:
        for view, part in zip(self.parameters.parts(out), parts, strict=True):
            if part is not None:
                view.sub_(part, alpha=share)

    def add_replica(self, replica: int, stacked: "Objective") -> None:
        """dλ += what R replicas side by side accumulated for this replica."""
        self.sums.add_replica(replica, stacked.sums)
        self.penalties.add_products(replica, stacked.penalties)

    def hypergradient(self) -> dict[str, Tensor]:
        """dλ by name, through the transforms, on the CPU; frees dλ.

        Raises:
            HypergradientNotFinite: an entry is nan or infinite.
        """
        self.sums.join_rows()
        self.penalties.subtract_totals(self.sums.totals)
        gradient = {
            name: bound.chain(self.values.by_name[name], self.sums.totals[name]).cpu()
            for name, bound in self.values.bound.items()
        }
        self.end_products()
        require_finite(gradient)
        return gradient
