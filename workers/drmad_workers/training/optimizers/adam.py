"""Adam and AdamW: `adam` and `adamw`.

[Kingma2015] Adam: a method for stochastic optimization, 1412.6980.
[Loshchilov2019] Decoupled weight decay regularization, 1711.05101.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from drmad_workers.objective.parameters.cached_parts import parts_of
from drmad_workers.training.optimizers.base import InnerOptimizer, OptimizerSettings
from drmad_workers.training.optimizers.rates import (
    Factor,
    Rate,
    add_scaled,
    part_of,
)
from drmad_workers.update_rule import square_root


@dataclass
class Adam(InnerOptimizer):
    """Adam as torch.optim has it ([Kingma2015]), or AdamW where the decay is decoupled.

        g += ω w                  (adam; adamw: w *= 1 - α ω, [Loshchilov2019])
        m' = β₁ m + (1 - β₁) g    s' = β₂ s + (1 - β₂) g²
        w' = w - α m' / (1 - β₁ᵗ) / (√(s' / (1 - β₂ᵗ)) + ε),    t = 1, 2, ..

    β₁ is the momentum. The reverse is the vector-Jacobian product of this update, written out; for
    m steps under one gradient it is that of the update applied m times. √s' has no derivative at
    0, where a weight has had no gradient yet: the reverse takes 0 there.

    Attributes:
        learning_rate: α > 0.
        momentum: β₁ in [0, 1); 1 - β₁ᵗ takes its present value, as torch does.
        second_decay: β₂ in [0, 1).
        epsilon: ε > 0.
        weight_decay: ω >= 0.
        decoupled: whether this is AdamW.
    """

    learning_rate: Rate
    momentum: Rate
    second_decay: float = 0.999
    epsilon: float = 1e-8
    weight_decay: Rate = field(default_factory=lambda: Rate(0.0))
    decoupled: bool = False

    memory_rows = 2
    path_rows = 3
    point_rows = 3
    reads_gradient = True

    @classmethod
    def configured(
        cls, settings: OptimizerSettings, learning_rate: Rate, momentum: Rate, weight_decay: Rate
    ) -> Self:
        rest = (settings.betas[1], settings.eps, weight_decay, settings.optimizer == "adamw")
        return cls(learning_rate, momentum, *rest)

    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        factors = self._factors(step)
        for part in parts_of(state):
            own = (part_of(factor, part) for factor in factors)
            self._step(step, state[..., part], gradient[..., part], *own)

    def _step(
        self,
        step: int,
        state: Tensor,
        gradient: Tensor,
        rate: Factor,
        decay: Factor,
        weight_decay: Factor,
    ) -> None:
        weights, first, second = state.unbind()
        if self.decoupled and not self.weight_decay.is_zero:
            weights.mul_(1.0 - weight_decay * rate)
        gradient = self._coupled(weights, gradient, weight_decay)
        first.lerp_(gradient, 1.0 - decay)
        second.mul_(self.second_decay)
        second.addcmul_(gradient, gradient, value=1.0 - self.second_decay)
        time = self.first + step + 1
        root = (second / (1.0 - self.second_decay**time)).sqrt_().add_(self.epsilon)
        size = rate / (1.0 - decay**time)
        if isinstance(size, Tensor):
            weights.sub_(root.reciprocal_().mul_(first).mul_(size))
        else:
            weights.addcdiv_(first, root, value=-size)

    def _coupled(self, weights: Tensor, gradient: Tensor, weight_decay: Factor) -> Tensor:
        """The gradient that the moments take, shape (P,): with ω w where the decay is coupled."""
        if self.decoupled or self.weight_decay.is_zero:
            return gradient
        total = gradient.clone()
        add_scaled(total, weight_decay, weights)
        return total

    def pull_back(
        self,
        step: int,
        count: int,
        adjoint: Tensor,
        cotangent: Tensor,
        state: Tensor,
        gradient: Tensor | None = None,
        velocity_after: Tensor | None = None,
    ) -> None:
        assert gradient is not None
        is_tuned = any(rate.total is not None for rate in self.rates.values())
        factors = [self._factors(j) for j in range(step, step + count)]
        # The derivatives by a rate are summed by layer, over all weights at once.
        for part in [slice(None)] if is_tuned else parts_of(state):
            own, along = state[..., part], gradient[..., part]
            points = [own]
            of_steps = [[part_of(factor, part) for factor in each] for each in factors]
            for j in range(count - 1):
                points.append(points[-1].clone())
                self._step(step + j, points[-1], along, *of_steps[j])
            ends = adjoint[..., part], cotangent[..., part].zero_()
            for j in range(count - 1, -1, -1):
                self._reverse(step + j, points.pop(), along, *ends, *of_steps[j])

    def _factors(self, step: int) -> list[Factor]:
        return [rate.factor(step) for rate in self.rates.values()]

    def _reverse(
        self,
        step: int,
        state: Tensor,
        gradient: Tensor,
        adjoint: Tensor,
        cotangent: Tensor,
        rate: Factor,
        decay: Factor,
        shrink: Factor,
    ) -> None:
        """`pull_back` of one step; adds to u."""
        weights, first, second = state.unbind()
        d_weights, d_first, d_second = adjoint.unbind()
        time = self.first + step + 1
        gradient = self._coupled(weights, gradient, shrink)
        correction, second_correction = 1.0 - decay**time, 1.0 - self.second_decay**time
        root = torch.mul(second, self.second_decay)
        root.addcmul_(gradient, gradient, value=1.0 - self.second_decay)
        root.div_(second_correction).sqrt_()
        inverse = root.add(self.epsilon).reciprocal_()
        by_moment = d_weights * inverse
        along = torch.lerp(first, gradient, 1.0 - decay).mul_(by_moment)
        if self.learning_rate.total is not None:
            by_rate = -along / correction
            if self.decoupled:
                by_rate.addcmul_(d_weights * shrink, weights, value=-1.0)
            self.learning_rate.gather(step, by_rate)
        add_scaled(d_first, rate / correction, by_moment, -1.0)
        if self.momentum.total is not None:
            by_decay = d_first * (first - gradient)
            slope = rate * time * decay ** (time - 1) / correction**2
            add_scaled(by_decay, slope, along, -1.0)
            self.momentum.gather(step, by_decay)
        by_square = along.mul_(inverse).mul_(rate / correction).div_(root)
        by_square.masked_fill_(root == 0.0, 0.0)
        d_second.add_(by_square, alpha=0.5 / second_correction)
        d_gradient = d_first * (1.0 - decay)
        d_gradient.addcmul_(d_second, gradient, value=2.0 * (1.0 - self.second_decay))
        cotangent.sub_(d_gradient)
        d_first.mul_(decay)
        d_second.mul_(self.second_decay)
        if self.weight_decay.is_zero:
            return
        if self.weight_decay.total is not None:
            slope = d_weights * -rate if self.decoupled else d_gradient
            self.weight_decay.gather(step, slope * weights)
        if self.decoupled:
            d_weights.mul_(1.0 - shrink * rate)
        else:
            add_scaled(d_weights, shrink, d_gradient)

    def updated(
        self,
        step: int,
        state: Sequence[Tensor],
        gradient: Tensor,
        rate: Factor,
        decay: Factor,
        weight_decay: Factor,
    ) -> Sequence[Tensor]:
        weights, first, second = state
        if self.decoupled and not self.weight_decay.is_zero:
            weights = weights * (1.0 - weight_decay * rate)
        elif not self.weight_decay.is_zero:
            gradient = gradient + weight_decay * weights
        first = decay * first + (1.0 - decay) * gradient
        second = self.second_decay * second + (1.0 - self.second_decay) * gradient.square()
        time = self.first + step + 1
        scaled = second / (1.0 - self.second_decay**time)
        size = rate / (1.0 - decay**time)
        return weights - size * first / (square_root(scaled) + self.epsilon), first, second
