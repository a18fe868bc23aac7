"""The memory of a gradient's graph, measured on a batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from drmad_workers.objective.inner import InnerObjective
from drmad_workers.problem import Batch


def graph_bytes(inner: InnerObjective, draw: Callable[[], Batch]) -> int | None:
    """The bytes of one `linearize` at other weights; None if the model cannot be moved there.

    The model cannot be moved if its code holds parameters by other means than as attributes of
    modules (in lists or closures, as recurrent layers do): it would go on to use its own weights.

    Args:
        inner: L.
        draw: returns the same batch twice, and sets the seed of the model's noise.
    """
    parameters = inner.parameters
    here = inner.linearize(draw())
    kept: dict[int, int] = {}
    holders: list[list[Tensor]] = []

    def note(tensor: Tensor) -> None:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()

    def hold(tensor: Tensor) -> list[Tensor]:
        note(tensor)
        holders.append([tensor])
        return holders[-1]

    weights = parameters.weights.detach().clone()
    hooks = torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held[0])
    with parameters.elsewhere(), hooks:
        there = inner.linearize(draw(), weights)
    for holder in holders:  # an output that its own graph holds would never be freed
        holder.clear()
    for one, other in zip(here.gradients, there.gradients, strict=True):
        if (one is None) != (other is None) or (
            one is not None and other is not None and not torch.allclose(one, other)
        ):
            return None
        if other is not None:
            note(other)
    kept.pop(weights.untyped_storage().data_ptr(), None)
    return sum(kept.values())
