"""An inner optimizer stated by its update alone; autograd takes the derivatives."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class StepRates(NamedTuple):
    """The rates of a step: α_t with its schedule, γ_t and ω.

    Each is a number, or a tensor that broadcasts over the weights of the call.
    """

    learning_rate: float | Tensor
    momentum: float | Tensor
    weight_decay: float | Tensor


class UpdateRule(ABC):
    """The update of an inner optimizer, (w, memory) -> (w', memory') under a gradient.

    The engine trains by it, and takes its vector-Jacobian and Jacobian-vector products by
    autograd. The memory is 0 before the first step.

    Attributes:
        memory_rows: S, the tensors of the shape of the weights that the optimizer keeps.
        elementwise: whether each entry of the result depends on that entry of the arguments alone.
            `update` is then called once for all parameters, and otherwise once for each.
    """

    memory_rows: ClassVar[int]
    elementwise: ClassVar[bool] = True

    @abstractmethod
    def update(
        self,
        step: int,
        weights: Tensor,
        memory: Sequence[Tensor],
        gradient: Tensor,
        rates: StepRates,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The weights and the memory after a step.

        It is a function of the arguments alone. It writes into none of them, does not detach, and
        takes no branch by the value of a tensor.

        Args:
            step: the number of steps before this one.
            weights: all weights, shape (..., P), or those of one parameter in its own shape.
            memory: S tensors of that shape.
            gradient: clipped and with the gradient of penalties, of that shape.
            rates: see StepRates; weight decay is the rule's own task.
        """


def square_root(values: Tensor) -> Tensor:
    """√x for x >= 0, with the derivative 0 at x = 0, where that of torch.sqrt is infinite."""
    positive = values > 0.0
    return torch.where(positive, values, 1.0).sqrt() * positive
