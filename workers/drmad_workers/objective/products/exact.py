"""The exact product: the gradient is differentiated once more (double backward)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from drmad_workers.objective.autograd.cuts import through_cuts
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
) -> Derivatives:
    """∂(<∇_w L, u> - <b', db>) by reverse mode through the graph of ∇_w L and b'; see Product."""

    def derive() -> Parts:
        begun = at or inner.linearize(batch)
        if prepare is not None:
            prepare(inner.flat_gradient(begun.gradients))
        return derivatives(begun.inputs, *inner.paired(begun.gradients, cotangent))

    if carried is None:
        if at is None and prepare is None:
            return inner.split(inner.trace("product", derive, batch, cotangent))
        return inner.split(derive())
    begun = at or inner.linearize(batch)
    if prepare is not None:
        prepare(inner.flat_gradient(begun.gradients))
    update = begun.carried
    assert update is not None
    total = update.summed(carried, times)
    outputs, directions = inner.paired(begun.gradients, cotangent)
    after, carried_directions = update.directions(-total)
    parts = derivatives(
        [*begun.inputs, *update.leaves], outputs + after, directions + carried_directions
    )
    count = len(begun.inputs)
    by_carried = update.flatten(parts[count:]).add_(total - carried)
    return inner.split(parts[:count])._replace(by_carried=by_carried)


def derivatives(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor] | Sequence[GradientEdge],
    directions: Sequence[Tensor],
) -> Parts:
    """∂ Σ <output, direction> by the inputs, through every value; an edge stands for an output."""
    if not outputs:
        return [None] * len(inputs)
    with through_cuts():
        return torch.autograd.grad(outputs, inputs, directions, allow_unused=True)
