"""Values that training's gradient takes for constants, and that a derivative of it does not.

A cut (`detach`, `no_grad`) becomes an identity whose derivative is zero while the gradient itself
is taken, and one while the gradient is differentiated, inside `through_cuts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_passing = False
modes: list[AbstractContextManager[object]] = []
"""The entered modes that make cuts. Torch leaves them while it calls hooks."""


@contextmanager
def through_cuts() -> Iterator[None]:
    """Differentiates through cuts, and without the hooks that belong to training's gradient."""
    global _passing
    before, _passing = _passing, True
    try:
        yield
    finally:
        _passing = before


class Cut(torch.autograd.Function):
    """The identity; its derivative is zero, but one inside `through_cuts`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor | None:
        return gradient if _passing else None


def cut(tensor: Tensor) -> Tensor:
    """The tensor behind a Cut, if it has a graph."""
    if not tensor.requires_grad:
        return tensor
    with torch.enable_grad():
        found: Tensor = Cut.apply(tensor)  # type: ignore[no-untyped-call]
    return found


class OwnBackward(torch.autograd.Function):
    """A value with two derivatives: of training's gradient, and of the value itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(trained: Tensor, value: Tensor) -> Tensor:
        return trained.view_as(trained)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return (None, gradient) if _passing else (gradient, None)


def hook_of_training(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook on a gradient, which does nothing inside `through_cuts`.

    What it cuts off, or differentiates by itself, is cut as in the forward pass.
    """

    def called(*arguments: Any) -> Any:
        if _passing:
            return None
        with modes[-1] if modes else nullcontext():
            return hook(*arguments)

    return called


def confine_hooks(model: nn.Module) -> None:
    """Makes the backward hooks of the model and of its parameters hooks of training."""
    for module in model.modules():
        for hooks in (module._backward_hooks, module._backward_pre_hooks):
            _confine(hooks)
    for parameter in model.parameters():
        _confine(parameter._backward_hooks or {})


def _confine(hooks: Any) -> None:
    for key, hook in list(hooks.items()):
        if getattr(hook, "__module__", None) != __name__:
            hooks[key] = hook_of_training(hook)
