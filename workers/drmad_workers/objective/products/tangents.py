"""The derivatives of the gradient along directions, for differentiation in forward mode."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from drmad_workers.objective.autograd.cuts import through_cuts
from drmad_workers.objective.inner import InnerObjective
from drmad_workers.objective.products.batched import products_along
from drmad_workers.problem import Batch


class AlongDirections(NamedTuple):
    """∇_w L, shape (P,), and its derivatives and those of b' along D directions.

    The derivatives have the shapes (D, P) and (D, Q).
    """

    gradient: Tensor
    along: Tensor
    carried: Tensor


def gradient_along(
    inner: InnerObjective,
    batch: Batch,
    weights: Tensor,
    carried: Tensor,
    values: Mapping[str, Tensor],
) -> AlongDirections:
    """∇_w L and its derivatives along directions of the weights, the carried values and λ.

    Where there are carried values, or the gradient's Jacobian is not symmetric,
    `_along_by_transposes` takes the derivatives. Otherwise one forward and one backward pass serve
    all directions: <∂L/∂w, z> + <∂L/∂λ, e> is differentiated by w, as second derivatives commute.

    Args:
        inner: L of one replica.
        batch: the batch on which L is taken.
        weights: the directions z of the weights, shape (D, P).
        carried: the directions of the carried values, shape (D, Q).
        values: the directions e of the values by name, shape (D, *shape of λ).
    """
    names, slots = inner.values, inner.parameters.slots
    count = len(weights)
    parts = [weights[:, slot.start : slot.stop].view(count, *slot.shape) for slot in slots]
    parts += [values[name] for name in names.leaf_names]
    parts += [values[name].index_select(1, batch.index) for name in names.row_names]
    if inner.parameters.carried or not inner.is_symmetric:
        result = _along_by_transposes(inner, batch, parts, carried)
        inner.workers.sum(result.along)
        inner.penalties.add_along(inner.parameters.weights, weights, values, result.along)
        return result
    derivatives = inner.first_derivatives(batch, create_graph=True)
    by_all = [part for parts_of_one in derivatives[:3] for part in parts_of_one]
    pairs = [
        (derivative, part)
        for derivative, part in zip(by_all, parts, strict=True)
        if derivative is not None and derivative.requires_grad
    ]
    out = torch.zeros_like(weights)
    if pairs:
        outputs, directions = zip(*pairs, strict=True)
        found_along = products_along(inner, outputs, inner.parameters.tensors, directions)
        for slot, found in zip(slots, found_along, strict=True):
            if found is not None:
                out[:, slot.start : slot.stop].copy_(found.reshape(count, -1))
    inner.workers.sum(out)
    inner.penalties.add_along(inner.parameters.weights, weights, values, out)
    gradient = inner.flat_gradient(derivatives.by_parameters)
    return AlongDirections(gradient, out, torch.zeros_like(carried))


def _along_by_transposes(
    inner: InnerObjective, batch: Batch, parts: Sequence[Tensor], carried: Tensor
) -> AlongDirections:
    """The derivatives along directions, without the penalties.

    Jᵀu is linear in u, and its derivative by u along a direction z is J z.
    """
    at = inner.linearize(batch, primitive=True)
    update, count = at.carried, len(parts[0])
    inputs, along = [*at.inputs], [*parts]
    after: list[Tensor] = []
    if update is not None:
        inputs += update.leaves
        each = [update.begun.parts(row) for row in carried]
        along += [torch.stack(column) for column in zip(*each, strict=True)]
        after, _ = update.directions(carried[0])
    gradients = [part for part in at.gradients if part is not None and part.requires_grad]
    outputs = [*gradients, *after]
    dual = [torch.zeros_like(output, requires_grad=True) for output in outputs]
    with through_cuts():
        pulled = torch.autograd.grad(outputs, inputs, dual, create_graph=True, allow_unused=True)
    pairs = [
        (part, direction)
        for part, direction in zip(pulled, along, strict=True)
        if part is not None and part.requires_grad
    ]
    weights = torch.zeros(
        count, len(inner.parameters.weights), dtype=carried.dtype, device=carried.device
    )
    pushed = torch.zeros_like(carried)
    for row in range(count):
        with through_cuts():
            found = torch.autograd.grad(
                [part for part, _ in pairs],
                dual,
                [direction[row] for _, direction in pairs],
                retain_graph=True,
                allow_unused=True,
            )
        rest = iter(found)
        by_parameter = [
            next(rest) if part is not None and part.requires_grad else None for part in at.gradients
        ]
        for view, part in zip(inner.parameters.parts(weights[row]), by_parameter, strict=True):
            if part is not None:
                view.copy_(part)
        if update is not None:
            pushed[row] = update.flatten(
                [next(rest) if one.requires_grad else None for one in update.after]
            )
    return AlongDirections(inner.flat_gradient(at.gradients), weights, pushed)
