"""Derivatives that are used one by one, each as soon as autograd has it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor

Use = Callable[[int, Tensor], Tensor]
"""Uses the derivative by the tensor of a number; returns what autograd shall return in its place, a
tensor of the same shape."""


@contextmanager
def streamed(tensors: Sequence[Tensor], use: Use) -> Iterator[None]:
    """Inside, `use` gets the derivative by each of the tensors, which are leaves of autograd.

    A derivative that is zero, because what lies between cuts it off, is not handed over.

    Autograd then holds no derivative longer than `use` does, so that all of them together do not
    take a copy of the weights. Hooks of the tensors act before.
    """

    def unless_none(number: int, derivative: Tensor | None) -> Tensor | None:
        return None if derivative is None else use(number, derivative)

    hooks = [
        tensor.register_hook(partial(unless_none, number))  # type: ignore[no-untyped-call]
        for number, tensor in enumerate(tensors)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def placeholder(derivative: Tensor) -> Tensor:
    """Zeros of the derivative's shape that take no memory."""
    return derivative.new_zeros(()).expand_as(derivative)
