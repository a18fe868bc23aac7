"""Vector-Jacobian products of one graph along several directions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from drmad_workers.objective.inner import InnerObjective
from drmad_workers.objective.parameters.flat_parameters import Parts

BATCHED_FROM = 4
"""Number of directions from which vmap takes all products at once; fewer are faster in turn."""


def products_along(
    inner: InnerObjective,
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    directions: Sequence[Tensor],
    at_once: int | None = None,
) -> Parts:
    """∂<outputs, direction>/∂inputs for each of D directions: one tensor (D, ..) per input.

    vmap takes several directions at once, where it can: of some kernels, such as that of group
    normalization, it has no or a wrong rule. Its first result is therefore compared.

    Args:
        inner: L, which remembers whether vmap agreed.
        outputs: those that have a graph, which is kept.
        inputs: the leaves; the result is None for one that no output depends on.
        directions: one tensor for each output, shape (D, *shape of the output).
        at_once: bounds the directions that vmap takes at once, and so the memory, which is that of
            the graph for each; None takes all of them.
    """

    def product(direction: Sequence[Tensor], batched: bool = False) -> Parts:
        return torch.autograd.grad(
            outputs,
            inputs,
            direction,
            allow_unused=True,
            retain_graph=True,
            is_grads_batched=batched,
        )

    count = len(directions[0])
    size = min(count, at_once or count)
    if size >= BATCHED_FROM and inner.vmap_agrees is not False:
        try:
            blocks = [
                product([direction[start : start + size] for direction in directions], True)
                for start in range(0, count, size)
            ]
        except RuntimeError:
            inner.vmap_agrees = False
        else:
            if inner.vmap_agrees is None:
                single = product([direction[0] for direction in directions])
                inner.vmap_agrees = all(map(_agree, blocks[0], single))
            if inner.vmap_agrees:
                return _together(blocks, torch.cat)
    rows = [product([direction[row] for direction in directions]) for row in range(count)]
    return _together(rows, torch.stack)


def _together(blocks: Sequence[Parts], join: Callable[[list[Tensor]], Tensor]) -> Parts:
    if len(blocks) == 1 and join is torch.cat:
        return blocks[0]
    return [
        None if column[0] is None else join([part for part in column if part is not None])
        for column in zip(*blocks, strict=True)
    ]


def _agree(batched: Tensor | None, single: Tensor | None) -> bool:
    if batched is None or single is None:
        return batched is single
    size = float(single.abs().nan_to_num().max()) if single.numel() else 0.0
    return torch.allclose(batched[0], single, rtol=1e-3, atol=1e-5 * size, equal_nan=True)
