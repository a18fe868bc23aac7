"""The memory of a graph of autograd, measured on a batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from drmad_workers.objective.inner import InnerObjective, key_of
from drmad_workers.problem import Batch


def graph_bytes(inner: InnerObjective, draw: Callable[[], Batch]) -> int | None:
    """The bytes of one `linearize` at other weights; None if the model cannot be moved there.

    They are measured once for each shape of the batch.

    The model cannot be moved if its code holds parameters by other means than as attributes of
    modules (in lists or closures, as recurrent layers do): it would go on to use its own weights.
    None also where torch.func's transforms allow no measurement.

    Args:
        inner: L.
        draw: returns the same batch twice, and sets the seed of the model's noise.
    """
    key = key_of("graph", draw())
    if key not in inner.graph_bytes:
        inner.graph_bytes[key] = _graph_bytes(inner, draw)
    return inner.graph_bytes[key]


def step_graph_bytes(inner: InnerObjective, draw: Callable[[], Batch]) -> int:
    """The bytes of the graph of a gradient whose values are not held, at the current weights.

    They are measured once, on the first batch, and are 0 where torch.func's transforms allow no
    measurement.
    """
    key = "without values"
    if key not in inner.graph_bytes:
        inner.graph_bytes[key] = _step_graph_bytes(inner, draw)
    return inner.graph_bytes[key] or 0


def _step_graph_bytes(inner: InnerObjective, draw: Callable[[], Batch]) -> int:
    parameters = inner.parameters
    try:
        with saved_tensors() as kept, parameters.same_noise():
            inner.linearize_into(draw(), None)
    except RuntimeError as error:
        if forbids_hooks(error):
            return 0
        raise
    kept.pop(address(parameters.weights), None)
    return sum(kept.values())


def _graph_bytes(inner: InnerObjective, draw: Callable[[], Batch]) -> int | None:
    parameters = inner.parameters
    here = inner.linearize(draw())
    weights = parameters.weights.detach().clone()
    try:
        with parameters.elsewhere(), saved_tensors() as kept:
            there = inner.linearize(draw(), weights)
    except RuntimeError as error:
        if forbids_hooks(error):
            return None
        raise
    for one, other in zip(here.gradients, there.gradients, strict=True):
        if (one is None) != (other is None) or (
            one is not None and other is not None and not torch.allclose(one, other)
        ):
            return None
        if other is not None:
            kept[address(other)] = other.untyped_storage().nbytes()
    kept.pop(address(weights), None)
    return sum(kept.values())


@contextmanager
def saved_tensors() -> Iterator[dict[int, int]]:
    """The bytes of the storages that autograd saves inside, by address.

    Graphs that are recorded inside can be differentiated inside only.
    """
    kept: dict[int, int] = {}
    holders: list[list[Tensor]] = []

    def hold(tensor: Tensor) -> list[Tensor]:
        if not (is_functorch_wrapped_tensor(tensor) or tensor._is_zerotensor()):  # no memory
            kept[address(tensor)] = tensor.untyped_storage().nbytes()
        holders.append([tensor])
        return holders[-1]

    try:
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held[0]):
            yield kept
    finally:
        for holder in holders:  # an output that its own graph holds would never be freed
            holder.clear()


def forbids_hooks(error: RuntimeError) -> bool:
    """Whether a transform of torch.func ended `saved_tensors`, whose hooks it does not support."""
    return "support saved tensor hooks" in str(error)


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
