"""The derivatives of the gradient along directions, for differentiation in forward mode."""

from collections.abc import Mapping

import torch
from torch import Tensor

from drmad_workers.objective.inner import InnerObjective
from drmad_workers.problem import Batch

BATCHED_FROM = 4
"""Number of directions from which vmap takes all products at once; fewer are faster in turn."""


def gradient_along(
    inner: InnerObjective, batch: Batch, weights: Tensor, values: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """∇_w L, and its derivatives H z + (∂²L/∂w∂λ) e along z and e, shapes (P,) and (D, P).

    One forward and one backward pass serve all directions. Then <∂L/∂w, z> + <∂L/∂λ, e> is
    differentiated by w, as second derivatives commute.

    Args:
        inner: L of one replica.
        batch: the batch on which L is taken.
        weights: the directions z of the weights, shape (D, P).
        values: the directions e of the values by name, shape (D, *shape of λ).
    """
    names, slots = inner.values, inner.parameters.slots
    derivatives = inner.first_derivatives(batch, create_graph=True)
    count = len(weights)
    parts = [weights[:, slot.start : slot.stop].view(count, *slot.shape) for slot in slots]
    parts += [values[name] for name in names.leaf_names]
    parts += [values[name].index_select(1, batch.index) for name in names.row_names]
    by_all = [part for parts_of_one in derivatives for part in parts_of_one]
    pairs = [
        (derivative, part)
        for derivative, part in zip(by_all, parts, strict=True)
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
                inner.parameters.tensors,
                directions if at_once > 1 else [part[0] for part in directions],
                allow_unused=True,
                retain_graph=True,
                is_grads_batched=at_once > 1,
            )
            for slot, found in zip(slots, second, strict=True):
                if found is not None:
                    out[first : first + at_once, slot.start : slot.stop].copy_(
                        found.view(at_once, -1)
                    )
    inner.penalties.add_along(inner.parameters.weights, weights, values, out)
    return inner.flat_gradient(derivatives.by_parameters), out
