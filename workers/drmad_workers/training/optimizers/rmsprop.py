"""RMSprop: `rmsprop`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from drmad_workers.training.optimizers.base import NamedRule, OptimizerSettings
from drmad_workers.update_rule import StepRates, square_root


@dataclass(frozen=True)
class RMSprop(NamedRule):
    """RMSprop as torch.optim has it, not centered.

        g += ω w    s' = a s + (1 - a) g²    b' = γ b + g / (√s' + ε)    w' = w - α b'

    Attributes:
        smoothing: a in [0, 1).
        epsilon: ε > 0.
    """

    smoothing: float
    epsilon: float

    memory_rows: ClassVar[int] = 2

    @classmethod
    def configured(cls, settings: OptimizerSettings) -> Self:
        return cls(settings.smoothing, settings.eps)

    def update(
        self,
        step: int,
        weights: Tensor,
        memory: Sequence[Tensor],
        gradient: Tensor,
        rates: StepRates,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        square, buffer = memory
        gradient = gradient + rates.weight_decay * weights
        square = self.smoothing * square + (1.0 - self.smoothing) * gradient.square()
        buffer = rates.momentum * buffer + gradient / (square_root(square) + self.epsilon)
        return weights - rates.learning_rate * buffer, (square, buffer)
