"""The draw of w_0: the weights that were given, or new ones by the modules or by a function."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from drmad_workers.problem import Initialize


def draw_weights(model: nn.Module, initialize: Initialize) -> None:
    """Draws w_0 in place as the problem states; None leaves the weights that were given."""
    if initialize == "reset":
        reset_parameters(model)
    elif initialize is not None:
        initialize(model)


@contextmanager
def on_cpu(model: nn.Module) -> Iterator[None]:
    """Has the tensors of the model on the CPU inside, and copies them to their own places on exit.

    The generator of the CPU then draws, so that w_0 is the same on every device.
    """
    held = [*model.parameters(), *model.buffers()]
    places = [tensor.data for tensor in held]
    for tensor in held:
        tensor.data = tensor.data.to("cpu", copy=True)
    try:
        yield
    finally:
        for tensor, place in zip(held, places, strict=True):
            place.copy_(tensor.data)
            tensor.data = place


def reset_parameters(model: nn.Module) -> None:
    """Draws new weights with each module's own `reset_parameters`; frozen weights stay."""

    def reset(module: nn.Module) -> None:
        own = reset_of(module)
        if own is None:
            return
        frozen = [(p, p.detach().clone()) for p in module.parameters() if not p.requires_grad]
        own()
        for parameter, value in frozen:
            parameter.copy_(value)

    model.apply(reset)


def reset_of(module: nn.Module) -> Callable[[], None] | None:
    """The module's `reset_parameters`; None without one, or if all its parameters are frozen."""
    own = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        return None
    return own
