"""The exact product: the gradient is differentiated once more (double backward)."""

from collections.abc import Callable

import torch
from torch import Tensor

from drmad_workers.objective.flat_parameters import Parts
from drmad_workers.objective.inner import Derivatives, InnerObjective, Linearization
from drmad_workers.problem import Batch


def exact_product(
    inner: InnerObjective,
    batch: Batch,
    cotangent: Tensor,
    prepare: Callable[[Tensor], None] | None = None,
    at: Linearization | None = None,
) -> Derivatives:
    """∂<∇_w L, u> by reverse mode through the graph of ∇_w L; see Product."""

    def derive() -> Parts:
        begun = at or inner.linearize(batch)
        if prepare is not None:
            prepare(inner.flat_gradient(begun.gradients))
        outputs, directions = inner.paired(begun.gradients, cotangent)
        if not outputs:
            return [None] * len(begun.inputs)
        return torch.autograd.grad(outputs, begun.inputs, directions, allow_unused=True)

    if at is None and prepare is None:
        return inner.split(inner.trace("product", derive, batch, cotangent))
    return inner.split(derive())
