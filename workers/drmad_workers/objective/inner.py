"""The inner problem's objective L(w, λ): its gradient, and the gradient with its graph."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from drmad_workers import trees
from drmad_workers.distributed.workers import ALONE, Workers
from drmad_workers.errors import ProblemError
from drmad_workers.objective.autograd.cuts import through_cuts
from drmad_workers.objective.autograd.differentiable_forward import DifferentiableForward
from drmad_workers.objective.autograd.streamed_derivatives import Use, placeholder, streamed
from drmad_workers.objective.autograd.traces import Traced
from drmad_workers.objective.losses import BatchLoss, Losses
from drmad_workers.objective.parameters.carried import CarriedPass
from drmad_workers.objective.parameters.flat_parameters import (
    FlatParameters,
    Parts,
    require_trained,
)
from drmad_workers.objective.penalties import Penalties
from drmad_workers.objective.values import HyperparameterValues
from drmad_workers.problem import Batch


class Derivatives(NamedTuple):
    """The derivatives of one number by the parameters, the leaves, the batch's rows of λ and b.

    `by_carried` has shape (Q,); None stands for zeros.
    """

    by_parameters: Parts
    by_leaves: Parts
    by_rows: Parts
    by_carried: Tensor | None = None


@dataclass(frozen=True, slots=True)
class CarriedUpdate:
    """b' = B(w, λ, b), the carried values after a forward pass, with their graph.

    Attributes:
        leaves: the values before it that are leaves of the graph.
        after: the values after it that correspond to `leaves`.
        flat: all values after it, shape (Q,), without a graph.
    """

    begun: CarriedPass
    leaves: Sequence[Tensor]
    after: Sequence[Tensor]
    flat: Tensor

    def directions(self, cotangent: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The values after the pass that have a graph, and the corresponding parts of u."""
        parts = zip(self.after, self.begun.parts(cotangent), strict=True)
        there = [(after, part) for after, part in parts if after.requires_grad]
        return [after for after, _ in there], [part for _, part in there]

    def flatten(self, parts: Parts) -> Tensor:
        """One vector, shape (Q,), from one tensor per leaf."""
        out = torch.empty_like(self.flat)
        self.begun.flatten(parts, out)
        return out

    def pull_back(self, cotangent: Tensor) -> Tensor:
        """(∂b'/∂b)ᵀ u, shape (Q,); keeps the graph."""
        after, directions = self.directions(cotangent)
        if not after:
            return torch.zeros_like(cotangent)
        with through_cuts():
            parts = torch.autograd.grad(
                after, self.leaves, directions, retain_graph=True, allow_unused=True
            )
        return self.flatten(parts)

    def summed(self, cotangent: Tensor, times: int) -> Tensor:
        """u + Jᵀu + .. + (Jᵀ)^{m-1} u for J = ∂b'/∂b and m = `times`: m updates at one point."""
        total = power = cotangent
        for _ in range(times - 1):
            power = self.pull_back(power)
            total = total + power
        return total


@dataclass(frozen=True, slots=True)
class Linearization:
    """∇_w L on a batch with its graph; a product with its derivative is one backward pass more.

    Attributes:
        batch: the batch on which L is taken.
        parameters, leaves, rows: the leaves of the graph.
        gradients: ∇_w L by parameter, without penalties; None where L does not depend on it, and
            everywhere if the values are not held.
        loss: L, shape () or (R,).
        carried: the update of the carried values; None if there are none.
        edges: where the graphs of the gradients end, if their values are not held; None where L
            does not depend on a parameter, or is linear in it.
    """

    batch: Batch
    parameters: Sequence[Tensor]
    leaves: Sequence[Tensor]
    rows: Sequence[Tensor]
    gradients: Parts
    loss: Tensor
    carried: CarriedUpdate | None = None
    edges: Sequence[GradientEdge | None] | None = None

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
        graph_bytes: what was measured of the memory of graphs; see graph_memory.
        has_cuts: whether a loss so far cut values off; see DifferentiableForward.
        is_opaque: whether the model cannot be taken through a DifferentiableForward; what it cuts
            off or carries is then a constant.
        is_suspect: whether the exact product must be compared with differences; see
            DifferentiableForward.
        has_attention: see DifferentiableForward.
        without_derivative: names of carried values whose update no derivative passes through.
        vmap_agrees: whether vmap over directions gives the product along each; None if unknown.
        is_symmetric: whether the Jacobian of the gradient is symmetric, as that of a function is.
        workers: those that share the training run. The losses, graphs and derivatives of one of
            them are its part of a sum over rows; the gradients as vectors are whole.
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
        self.graph_bytes: dict[Hashable, int | None] = {}
        self.has_cuts = False
        self.is_symmetric = True
        self.workers: Workers = ALONE
        self.is_opaque = False
        self.is_suspect = False
        self.has_attention = False
        self.without_derivative: set[str] = set()
        self.vmap_agrees: bool | None = None
        self._with_gradient: list[bool] = []

    @property
    def is_plain(self) -> bool:
        """Whether the weights, λ and the batch determine a loss, in one precision.

        They do not where the model draws random numbers or changes carried values.
        """
        parameters = self.parameters
        return not (parameters.stochastic or self.losses.autocast or parameters.carried)

    def loss(self, batch: Batch) -> Tensor:
        """The training loss on the batch with its graph, without penalties."""
        return self.batch_loss(batch, self.values.arguments, self.values.rows_of(batch.index))

    def gradient(self, batch: Batch, out: Tensor) -> Tensor:
        """Writes ∇_w L on the batch into `out`, shape (..., P); returns the loss, shape (...).

        The gradient includes the penalties; the loss does not.
        """

        tensors = self.parameters.tensors

        def into_place() -> AbstractContextManager[None]:
            views = self.parameters.parts(out)
            return streamed(tensors, lambda number, part: views[number].copy_(part))

        def derive() -> Parts:
            loss = self.loss(batch)
            with into_place() if self.parameters.are_large else nullcontext():
                try:
                    parts = torch.autograd.grad(total(loss), tensors, allow_unused=True)
                except RuntimeError:
                    names = [slot.name for slot in self.parameters.slots]
                    require_trained(dict(zip(names, tensors, strict=True)), "the training loss")
                    raise
            return loss.detach(), *parts

        loss, *parts = self.trace("gradient", derive, batch)
        assert loss is not None
        self._require_same_parameters([part is not None for part in parts])
        self.join(parts, out, loss)
        return loss

    def first_derivatives(self, batch: Batch, create_graph: bool = False) -> Derivatives:
        """The derivatives of L without penalties; None where L does not depend on an input."""
        rows = self.values.differentiable_rows_of(batch.index)
        inputs = [*self.parameters.tensors, *self.values.leaves(), *rows.values()]
        forward = self.forward(batch, rows)
        update = forward.carried
        inputs += [] if update is None else update.leaves
        parts = torch.autograd.grad(
            forward.loss, inputs, create_graph=create_graph, allow_unused=True
        )
        if update is None:
            return self.split(parts)
        count = len(parts) - len(update.leaves)
        by_carried = update.flatten([p if p is None else p.detach() for p in parts[count:]])
        return self.split(parts[:count])._replace(by_carried=by_carried)

    def forward(
        self, batch: Batch, rows: dict[str, Tensor], primitive: bool = False
    ) -> "DifferentiatedLoss":
        """L and the update of the carried values, with a graph through every value.

        `primitive`: see DifferentiableForward.
        """
        parameters = self.parameters
        begun = parameters.carried.begin(parameters.carried_flat) if parameters.carried else None
        mode = DifferentiableForward({} if begun is None else begun.given, primitive)
        context = nullcontext() if self.is_opaque else mode
        with context:
            loss = self.batch_loss(batch, self.values.arguments, rows)
        if begun is None:
            return DifferentiatedLoss(loss, None, context, mode)
        flat = torch.empty_like(parameters.carried_flat)
        after = begun.end(begun.written() if self.is_opaque else mode.carried, flat)
        self.without_derivative.update(begun.without_graph(after))
        update = CarriedUpdate(begun, begun.leaves, after, flat)
        return DifferentiatedLoss(loss, update, context, mode)

    def linearize(
        self,
        batch: Batch,
        weights: Tensor | None = None,
        primitive: bool = False,
        use: Use | None = None,
    ) -> Linearization:
        """∇_w L with its graph at the current weights, or at others inside `elsewhere`.

        Args:
            batch: the batch on which L is taken.
            weights: others, shape (..., P), which must not change while the graph is needed.
            primitive: see DifferentiableForward.
            use: uses the gradient by each parameter, whose values are then not held.
        """
        tensors = self.parameters.tensors if weights is None else self.parameters.move(weights)
        rows = self.values.differentiable_rows_of(batch.index)
        forward = self.forward(batch, rows, primitive)
        loss = forward.loss
        edges: list[GradientEdge | None] = [None] * len(tensors)

        def keep_edge(number: int, part: Tensor) -> Tensor:
            assert use is not None
            if part.requires_grad:
                edges[number] = get_gradient_edge(part)
            with torch.no_grad():
                return use(number, part.detach())

        with nullcontext() if use is None else streamed(tensors, keep_edge), forward.context:
            gradients = torch.autograd.grad(
                total(loss), tensors, create_graph=True, allow_unused=True
            )
        self.has_cuts |= forward.mode.has_cuts
        self.is_suspect |= forward.mode.is_suspect
        self.has_attention |= forward.mode.has_attention
        return Linearization(
            batch,
            tensors,
            self.values.leaves(),
            [*rows.values()],
            gradients if use is None else [None] * len(tensors),
            loss.detach(),
            forward.carried,
            None if use is None else edges,
        )

    def linearize_into(
        self, batch: Batch, out: Tensor | None, weights: Tensor | None = None
    ) -> Linearization:
        """`linearize` with ∇_w L and its penalties in `out`; of large weights it holds no values.

        The penalties are taken at `parameters.weights`, which must be those of the linearization.
        """
        if not self.parameters.are_large:
            at = self.linearize(batch, weights)
            if out is not None:
                self.flat_gradient(at.gradients, out)
            return at
        if out is None:
            return self.linearize(batch, weights, use=lambda number, part: placeholder(part))
        out.zero_()
        views = self.parameters.parts(out)
        at = self.linearize(batch, weights, use=lambda number, part: views[number].copy_(part))
        self.join(views, out)
        return at

    def carried_product(self, batch: Batch, cotangent: Tensor, times: int) -> Derivatives:
        """-∂<b', u> after `times` updates at one point; see Product."""
        rows = self.values.differentiable_rows_of(batch.index)
        update = self.forward(batch, rows).carried
        assert update is not None
        inputs = [*self.parameters.tensors, *self.values.leaves(), *rows.values()]
        total = update.summed(cotangent, times)
        after, directions = update.directions(-total)
        parts: Parts = [None] * (len(inputs) + len(update.leaves))
        if after:
            with through_cuts():
                parts = torch.autograd.grad(
                    after, [*inputs, *update.leaves], directions, allow_unused=True
                )
        by_carried = update.flatten(parts[len(inputs) :]).add_(total - cotangent)
        return self.split(parts[: len(inputs)])._replace(by_carried=by_carried)

    def flat_gradient(self, gradients: Parts, out: Tensor | None = None) -> Tensor:
        """∇_w L with its penalties, shape (..., P), from its values; without a graph.

        The penalties are taken at `parameters.weights`, which must be those of the linearization.
        """
        flat = torch.empty_like(self.parameters.weights) if out is None else out
        self.join([None if part is None else part.detach() for part in gradients], flat)
        return flat

    def _require_same_parameters(self, with_gradient: list[bool]) -> None:
        """Raises ProblemError unless the loss depends on the same parameters in every step."""
        if not self._with_gradient:
            self._with_gradient = with_gradient
        if with_gradient == self._with_gradient:
            return
        pairs = zip(self.parameters.slots, with_gradient, self._with_gradient, strict=True)
        name = next(slot.name for slot, now, before in pairs if now != before)
        raise ProblemError(
            f"the training loss must depend on the same parameters in every step, and {name} has a "
            "gradient in some steps only: torch.optim would leave it and its momentum alone in "
            "the others; multiply the part that is left out by zero instead",
            "model",
        )

    def join(self, parts: Parts, out: Tensor, *also: Tensor) -> None:
        """Writes ∇_w L with its penalties into `out`, from what autograd returned.

        `also` holds other parts of sums over the rows, which become whole with the gradient.
        """
        self.parameters.join(parts, out)
        self.workers.sum(out, *also)
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

    @property
    def _is_traceable(self) -> bool:
        parameters = self.parameters
        on_cpu = parameters.device.type == "cpu"
        # A trace that one worker alone gives up would have it alone repeat the run.
        is_alone = self.workers.size == 1
        return on_cpu and self.is_plain and is_alone and not parameters.are_large

    def is_traced(self, batch: Batch) -> bool:
        """Whether gradients and exact products on such a batch are traced, as far as is known."""
        keys = [key_of(what, batch) for what in ("gradient", "product")]
        return self._is_traceable and not any(map(self.traced.refuses, keys))

    def trace(
        self, what: str, function: Callable[[], Parts], batch: Batch, *others: Tensor
    ) -> Parts:
        """Calls `function` of the weights, λ, the batch and the others through Traced.

        On a GPU the function is called as it is: there a training step is recorded as a whole.
        """
        if not self._is_traceable:
            return function()
        key = key_of(what, batch)
        rows = [self.values.by_name[name] for name in self.values.row_names]
        inputs = [*self.parameters.tensors, *self.values.leaves(), *rows]
        inputs += [*trees.tensors_of(batch.content), batch.index, *others]
        return self.traced(key, inputs, function)


class DifferentiatedLoss(NamedTuple):
    """L with its graph, the update of the carried values, and how the pass was taken."""

    loss: Tensor
    carried: CarriedUpdate | None
    context: AbstractContextManager[object]
    mode: DifferentiableForward


def key_of(what: str, batch: Batch) -> Hashable:
    """Determines the structure and the shapes of what a function reads; see Traced."""
    return what, trees.signature(batch.content)


def joined(one: Derivatives, other: Derivatives) -> Derivatives:
    """The sum of two derivatives by the same inputs."""

    def add(left: Tensor | None, right: Tensor | None) -> Tensor | None:
        return left if right is None else right if left is None else left + right

    return Derivatives(
        list(map(add, one.by_parameters, other.by_parameters)),
        list(map(add, one.by_leaves, other.by_leaves)),
        list(map(add, one.by_rows, other.by_rows)),
        add(one.by_carried, other.by_carried),
    )


def total(loss: Tensor) -> Tensor:
    """The number to differentiate: the sum of a loss over replicas, if there are several."""
    return loss if loss.ndim == 0 else loss.sum()
