"""The inner problem's objective L(w, λ): its gradient, and the gradient with its graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from drmad_workers.objective.flat_parameters import FlatParameters, Parts
from drmad_workers.objective.losses import BatchLoss, Losses
from drmad_workers.objective.penalties import Penalties
from drmad_workers.objective.traces import Traced
from drmad_workers.objective.values import HyperparameterValues
from drmad_workers.problem import Batch


class Derivatives(NamedTuple):
    """The derivatives of one number by the parameters, the leaves and the batch's rows of λ."""

    by_parameters: Parts
    by_leaves: Parts
    by_rows: Parts


@dataclass(frozen=True, slots=True)
class Linearization:
    """∇_w L on a batch with its graph; a product with its derivative is one backward pass more.

    Attributes:
        batch: the batch on which L is taken.
        parameters, leaves, rows: the leaves of the graph.
        gradients: ∇_w L by parameter, without penalties; None where L does not depend on it.
        loss: L, shape () or (R,).
    """

    batch: Batch
    parameters: Sequence[Tensor]
    leaves: Sequence[Tensor]
    rows: Sequence[Tensor]
    gradients: Parts
    loss: Tensor

    @property
    def inputs(self) -> list[Tensor]:
        return [*self.parameters, *self.leaves, *self.rows]


class InnerObjective:
    """L(w, λ) of one replica, or the sum of those of R replicas side by side.

    Autograd differentiates the loss; the penalties have their derivatives written out.

    Attributes:
        losses: the losses of one replica.
        batch_loss: the loss that is differentiated: that of one replica, or of R by vmap.
        traced: the traces of the gradient and of the product.
    """

    def __init__(
        self,
        losses: Losses,
        batch_loss: BatchLoss,
        parameters: FlatParameters,
        values: HyperparameterValues,
        penalties: Penalties,
    ) -> None:
        self.losses = losses
        self.batch_loss = batch_loss
        self.parameters = parameters
        self.values = values
        self.penalties = penalties
        self.traced = Traced()
        self._has_buffers = bool(parameters.buffers)

    @property
    def is_plain(self) -> bool:
        """Whether the weights, λ and the batch determine a loss, in one precision.

        They do not where the model draws random numbers or has buffers, which it may change.
        """
        return not (self.parameters.stochastic or self.losses.autocast or self._has_buffers)

    def loss(self, batch: Batch) -> Tensor:
        """The training loss on the batch with its graph, without penalties."""
        return self.batch_loss(batch, self.values.arguments, self.values.rows_of(batch.index))

    def gradient(self, batch: Batch, out: Tensor) -> Tensor:
        """Writes ∇_w L on the batch into `out`, shape (..., P); returns the loss, shape (...).

        The gradient includes the penalties; the loss does not.
        """

        def derive() -> Parts:
            loss = self.loss(batch)
            parts = torch.autograd.grad(total(loss), self.parameters.tensors, allow_unused=True)
            return loss.detach(), *parts

        loss, *parts = self.trace("gradient", derive, batch)
        assert loss is not None
        self.join(parts, out)
        return loss

    def first_derivatives(self, batch: Batch, create_graph: bool = False) -> Derivatives:
        """The derivatives of L without penalties; None where L does not depend on an input."""
        rows = self.values.differentiable_rows_of(batch.index)
        inputs = [*self.parameters.tensors, *self.values.leaves(), *rows.values()]
        loss = self.batch_loss(batch, self.values.arguments, rows)
        return self.split(
            torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
        )

    def linearize(self, batch: Batch, weights: Tensor | None = None) -> Linearization:
        """∇_w L with its graph at the current weights, or at others inside `elsewhere`.

        Other weights, shape (..., P), must not change for as long as the graph is needed.
        """
        tensors = self.parameters.tensors if weights is None else self.parameters.move(weights)
        rows = self.values.differentiable_rows_of(batch.index)
        loss = self.batch_loss(batch, self.values.arguments, rows)
        gradients = torch.autograd.grad(total(loss), tensors, create_graph=True, allow_unused=True)
        leaves = self.values.leaves()
        return Linearization(batch, tensors, leaves, [*rows.values()], gradients, loss.detach())

    def flat_gradient(self, gradients: Parts) -> Tensor:
        """∇_w L with its penalties, shape (..., P), from its parts; without a graph."""
        flat = torch.empty_like(self.parameters.weights)
        self.join([None if part is None else part.detach() for part in gradients], flat)
        return flat

    def gradient_of(self, at: Linearization, out: Tensor) -> Tensor:
        """Writes ∇_w L of a linearization with its penalties into `out`, shape (..., P).

        The penalties are taken at `weights`, which must be those of the linearization.
        """
        self.join([None if part is None else part.detach() for part in at.gradients], out)
        return out

    def join(self, parts: Parts, out: Tensor) -> None:
        """Writes ∇_w L with its penalties into `out`, from what autograd returned."""
        self.parameters.join(parts, out)
        self.penalties.add_gradient(self.parameters.weights, out)

    def split(self, parts: Parts) -> Derivatives:
        """Derivatives from one sequence by parameters, leaves and rows."""
        first = len(self.parameters.tensors)
        last = len(parts) - len(self.values.row_names)
        return Derivatives(parts[:first], parts[first:last], parts[last:])

    def paired(self, gradients: Parts, cotangent: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The differentiable parts of the gradient, and the corresponding parts of u."""
        there = [
            (gradient, part)
            for part, gradient in zip(self.parameters.parts(cotangent), gradients, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        return [gradient for gradient, _ in there], [part for _, part in there]

    def trace(
        self, what: str, function: Callable[[], Parts], batch: Batch, *others: Tensor
    ) -> Parts:
        """Calls `function` of the weights, λ, the batch and the others through Traced.

        On a GPU the function is called as it is: there a training step is recorded as a whole.
        """
        if self.parameters.device.type != "cpu" or not self.is_plain:
            return function()
        key = (what, batch.inputs.shape, batch.targets.shape)
        rows = [self.values.by_name[name] for name in self.values.row_names]
        inputs = [*self.parameters.tensors, *self.values.leaves(), *rows]
        inputs += [batch.inputs, batch.targets, batch.index, *others]
        return self.traced(key, inputs, function)


def total(loss: Tensor) -> Tensor:
    """The number to differentiate: the sum of a loss over replicas, if there are several."""
    return loss if loss.ndim == 0 else loss.sum()
