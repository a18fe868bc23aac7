"""Muon: `muon`.

[Jordan2024] Muon: an optimizer for hidden layers in neural networks,
kellerjordan.github.io/posts/muon.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from drmad_workers.training.optimizers.base import NamedRule, OptimizerSettings
from drmad_workers.update_rule import StepRates, square_root

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


@dataclass(frozen=True)
class Muon(NamedRule):
    """Muon as torch.optim has it for matrices ([Jordan2024]); AdamW for all other parameters.

        m' = γ m + (1 - γ) g    w' = (1 - α ω) w - α √max(1, rows / columns) NS(m')

    NS is the quintic Newton-Schulz iteration towards the nearest orthogonal matrix, in the type of
    the weights (torch takes bfloat16). Nesterov's momentum takes (1 - γ) g + γ m' in place of m'.

    Attributes:
        nesterov: whether the momentum is Nesterov's.
        betas: β₁ and β₂ of AdamW.
        epsilon: ε of AdamW, and the least norm by which NS divides.
    """

    nesterov: bool
    betas: tuple[float, float]
    epsilon: float

    memory_rows: ClassVar[int] = 2
    elementwise: ClassVar[bool] = False

    @classmethod
    def configured(cls, settings: OptimizerSettings) -> Self:
        return cls(settings.nesterov, settings.betas, settings.eps)

    def update(
        self,
        step: int,
        weights: Tensor,
        memory: Sequence[Tensor],
        gradient: Tensor,
        rates: StepRates,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        first, second = memory
        rate, shrunk = (
            rates.learning_rate,
            weights * (1.0 - rates.learning_rate * rates.weight_decay),
        )
        if weights.ndim == 2:
            first = rates.momentum * first + (1.0 - rates.momentum) * gradient
            mean = first
            if self.nesterov:
                mean = (1.0 - rates.momentum) * gradient + rates.momentum * first
            size = math.sqrt(max(1.0, len(weights) / weights.shape[1]))
            return shrunk - size * rate * orthogonalised(mean, self.epsilon), (first, second)
        one, other = self.betas
        first = one * first + (1.0 - one) * gradient
        second = other * second + (1.0 - other) * gradient.square()
        scale = square_root(second / (1.0 - other ** (step + 1))) + self.epsilon
        return shrunk - rate * first / (1.0 - one ** (step + 1)) / scale, (first, second)


def orthogonalised(matrix: Tensor, epsilon: float) -> Tensor:
    """The matrix with its singular values moved towards 1, shape (rows, columns)."""
    a, b, c = COEFFICIENTS
    tall = len(matrix) > matrix.shape[1]
    wide: Tensor = matrix.mT if tall else matrix
    wide = wide / torch.linalg.vector_norm(wide).clamp_min(epsilon)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    out: Tensor = wide.mT if tall else wide
    return out
