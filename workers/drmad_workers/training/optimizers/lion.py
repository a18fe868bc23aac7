"""Lion: `lion`.

[Chen2023] Symbolic discovery of optimization algorithms, 2302.06675.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from drmad_workers.training.optimizers.base import NamedRule, OptimizerSettings
from drmad_workers.update_rule import StepRates


@dataclass(frozen=True)
class Lion(NamedRule):
    """Lion ([Chen2023], algorithm 2); β₁ is the momentum.

        w' = w - α (sign(β₁ m + (1 - β₁) g) + ω w)    m' = β₂ m + (1 - β₂) g

    The derivative of the sign is 0 almost everywhere: the reverse passes through the decay and α.

    Attributes:
        second_decay: β₂ in [0, 1).
    """

    second_decay: float

    memory_rows: ClassVar[int] = 1

    @classmethod
    def configured(cls, settings: OptimizerSettings) -> Self:
        return cls(settings.betas[1])

    def update(
        self,
        step: int,
        weights: Tensor,
        memory: Sequence[Tensor],
        gradient: Tensor,
        rates: StepRates,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        (moment,) = memory
        mean = rates.momentum * moment + (1.0 - rates.momentum) * gradient
        along = mean.sign() + rates.weight_decay * weights
        moment = self.second_decay * moment + (1.0 - self.second_decay) * gradient
        return weights - rates.learning_rate * along, (moment,)
