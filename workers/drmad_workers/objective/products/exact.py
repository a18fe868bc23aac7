"""The exact product: the gradient is differentiated once more (double backward)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from drmad_workers.objective.autograd.cuts import through_cuts
from drmad_workers.objective.autograd.streamed_derivatives import Use, streamed
from drmad_workers.objective.inner import Derivatives, InnerObjective, Linearization
from drmad_workers.objective.parameters.flat_parameters import Parts
from drmad_workers.problem import Batch


def exact_product(
    inner: InnerObjective,
    batch: Batch,
    cotangent: Tensor,
    prepare: Callable[[Tensor], None] | None = None,
    at: Linearization | None = None,
    carried: Tensor | None = None,
    times: int = 1,
    use: Use | None = None,
) -> Derivatives:
    """∂(<∇_w L, u> - <b', db>) by reverse mode through the graph of ∇_w L and b'; see Product."""

    def begin() -> Linearization:
        if at is not None:
            if prepare is not None:
                prepare(inner.flat_gradient(at.gradients))
            return at
        gradient = None if prepare is None else torch.empty_like(inner.parameters.weights)
        begun = inner.linearize_into(batch, gradient)
        if prepare is not None and gradient is not None:
            prepare(gradient)
        return begun

    def derive() -> Parts:
        begun = begin()
        return second_half(begun, begun.inputs, *paired(inner, begun, cotangent), use)

    if carried is None:
        if at is None and prepare is None:
            return inner.split(inner.trace("product", derive, batch, cotangent))
        return inner.split(derive())
    begun = begin()
    update = begun.carried
    assert update is not None
    total = update.summed(carried, times)
    outputs, directions = paired(inner, begun, cotangent)
    after, carried_directions = update.directions(-total)
    outputs += [get_gradient_edge(each) for each in after]
    inputs = [*begun.inputs, *update.leaves]
    parts = second_half(begun, inputs, outputs, directions + carried_directions, use)
    count = len(begun.inputs)
    by_carried = update.flatten(parts[count:]).add_(total - carried)
    return inner.split(parts[:count])._replace(by_carried=by_carried)


def paired(
    inner: InnerObjective, begun: Linearization, cotangent: Tensor
) -> tuple[list[GradientEdge], list[Tensor]]:
    """The ends of the gradient's graph, and the corresponding parts of u."""
    if begun.edges is None:
        outputs, directions = inner.paired(begun.gradients, cotangent)
        return [get_gradient_edge(output) for output in outputs], directions
    parts = zip(begun.edges, inner.parameters.parts(cotangent), strict=True)
    there = [(edge, part) for edge, part in parts if edge is not None]
    return [edge for edge, _ in there], [part for _, part in there]


def second_half(
    begun: Linearization,
    inputs: Sequence[Tensor],
    outputs: Sequence[GradientEdge],
    directions: Sequence[Tensor],
    use: Use | None,
) -> Parts:
    """`derivatives`; those by the parameters, the first inputs, go to `use` and are then None."""
    if use is None:
        return derivatives(inputs, outputs, directions)
    with streamed(begun.parameters, use):
        parts = derivatives(inputs, outputs, directions)
    count = len(begun.parameters)
    return [*[None] * count, *parts[count:]]


def derivatives(
    inputs: Sequence[Tensor],
    outputs: Sequence[GradientEdge],
    directions: Sequence[Tensor],
) -> Parts:
    """∂ Σ <output, direction> by the inputs, through every value; an edge stands for an output."""
    if not outputs:
        return [None] * len(inputs)
    with through_cuts():
        return torch.autograd.grad(outputs, inputs, directions, allow_unused=True)
