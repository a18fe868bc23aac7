"""Stochastic gradient descent with momentum: `sgd` and `damped_sgd`.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning, 1502.03492.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from drmad_workers.objective.parameters.cached_parts import is_one_part, parts_of
from drmad_workers.training.optimizers.base import InnerOptimizer, OptimizerSettings
from drmad_workers.training.optimizers.rates import (
    Factor,
    Rate,
    add_scaled,
    part_of,
)


@dataclass(frozen=True)
class StrideMap:
    """The joint effect of m steps under a constant gradient ḡ, as numbers or one per layer.

    w_m = w + weights_by_velocity v - weights_by_gradient ḡ
    v_m = velocity_by_velocity v - velocity_by_gradient ḡ
    """

    weights_by_velocity: Factor
    weights_by_gradient: Factor
    velocity_by_velocity: Factor
    velocity_by_gradient: Factor

    def of(self, part: slice) -> "StrideMap":
        """The map of a part of the weights."""
        return StrideMap(
            part_of(self.weights_by_velocity, part),
            part_of(self.weights_by_gradient, part),
            part_of(self.velocity_by_velocity, part),
            part_of(self.velocity_by_gradient, part),
        )


@dataclass
class MomentumSGD(InnerOptimizer):
    """Stochastic gradient descent with momentum.

        g_t = ∇_w L_t(w_t, λ) + ω w_t    v_{t+1} = γ_t v_t - δ_t g_t    w_{t+1} = w_t + α_t v_{t+1}

    with δ = 1 - γ as in [Maclaurin2015] (`damped_sgd`), or δ = 1 as in torch.optim.SGD (`sgd`).
    The reverse, where κ = 1 if damped and 0 if not:

        dα_t = dw·v_{t+1}    dv += α dw    dγ_t = dv·(v_t + κ g_t)    u = δ dv    dv *= γ
        dω -= w·u            dw -= ω u

    Nesterov's momentum, as in torch.optim.SGD, moves the weights along d = γ v_{t+1} - g_t in place
    of v_{t+1}. Its reverse, for δ = 1:

        dα_t = dw·d_t    dγ_t = α dw·v_{t+1} + (dv + α γ dw)·v_t    u = dv + α (1 + γ) dw
        dv <- γ (dv + α γ dw)

    A stride reverses m steps under one gradient, of which ω ŵ is a part, as the gradient of a
    penalty is. For the rates on an approximate trajectory, v_{t+1} (and d_t) is
    (ŵ_{t+m} - ŵ_t)/Σα over the m steps of a stride: it replaces the velocity after each of them;
    v_t is the one before the first, ḡ the gradient of each.

    Attributes:
        learning_rate: α > 0.
        momentum: γ in [0, 1).
        damped: whether δ is 1 - γ.
        weight_decay: ω >= 0, coupled as in torch.optim.SGD.
        nesterov: whether the momentum is Nesterov's; not with damped.
        constant: whether the rates are the same in every step.
    """

    learning_rate: Rate
    momentum: Rate
    damped: bool
    weight_decay: Rate = field(default_factory=lambda: Rate(0.0))
    nesterov: bool = False
    _maps: dict[int, StrideMap] = field(default_factory=dict)
    _numbers: tuple[float, float, float] | None = field(default=None, init=False)

    memory_rows = 1
    path_rows = 1

    def __post_init__(self) -> None:
        rates = (self.learning_rate, self.momentum)
        self.reads_gradient = any(rate.total is not None for rate in rates)
        self.point_rows = 2 if self.reads_gradient else 1
        self.constant = not any(rate.varies for rate in self.rates.values())
        if self.constant:
            self._numbers = numbers([rate.factor(0) for rate in self.rates.values()])

    @classmethod
    def configured(
        cls, settings: OptimizerSettings, learning_rate: Rate, momentum: Rate, weight_decay: Rate
    ) -> Self:
        damped = settings.optimizer == "damped_sgd"
        return cls(learning_rate, momentum, damped, weight_decay, settings.nesterov)

    def reads_gradient_at(self, velocity_after: Tensor | None) -> bool:
        known = velocity_after is not None and self.momentum.total is None
        return self.reads_gradient and not known

    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        if self._numbers is not None and is_one_part(state):
            self._step(state, gradient, *self._numbers)
            return
        factors = [rate.factor(step) for rate in self.rates.values()]
        for part in parts_of(state):
            own = (part_of(factor, part) for factor in factors)
            self._step(state[..., part], gradient[..., part], *own)

    def _step(
        self, state: Tensor, gradient: Tensor, rate: Factor, decay: Factor, weight_decay: Factor
    ) -> None:
        weights, velocity = state.unbind()
        gradient = self._decayed(weights, gradient, weight_decay)
        velocity.mul_(decay)
        add_scaled(velocity, self.gain(decay), gradient, -1.0)
        along = decay * velocity - gradient if self.nesterov else velocity
        add_scaled(weights, rate, along)

    def decayed(self, step: int, weights: Tensor, gradient: Tensor) -> Tensor:
        """g_t = ∇_w L_t + ω w, shape (P,)."""
        return self._decayed(weights, gradient, self.weight_decay.factor(step))

    def _decayed(self, weights: Tensor, gradient: Tensor, weight_decay: Factor) -> Tensor:
        if self.weight_decay.is_zero:
            return gradient
        total = gradient.clone()
        add_scaled(total, weight_decay, weights)
        return total

    def updated(
        self,
        step: int,
        state: Sequence[Tensor],
        gradient: Tensor,
        rate: Factor,
        decay: Factor,
        weight_decay: Factor,
    ) -> Sequence[Tensor]:
        weights, velocity = state
        if not self.weight_decay.is_zero:
            gradient = gradient + weight_decay * weights
        velocity = decay * velocity - self.gain(decay) * gradient
        along = decay * velocity - gradient if self.nesterov else velocity
        return weights + rate * along, velocity

    def stride(self, step: int, count: int) -> StrideMap:
        """The map of the m = `count` steps from `step` on for a gradient that stays the same.

        Where the rates stay the same too, with s_v = γ(1-γ^m)/(1-γ) and s_g = m - s_v:
        w_m = w + α s_v v - α s_g (δ/(1-γ)) ḡ and v_m = γ^m v - (1-γ^m) (δ/(1-γ)) ḡ.
        m = 1 is the update itself.
        """
        known = self._maps.get(count) if self.constant else None
        if known is not None:
            return known
        by_velocity: Factor = 0.0
        by_gradient: Factor = 0.0
        kept: Factor = 1.0
        gained: Factor = 0.0
        for j in range(step, step + count):
            rate, decay = self.learning_rate.at(j), self.momentum.at(j)
            kept, gained = decay * kept, decay * gained + self.gain(decay)
            moved_by_velocity, moved_by_gradient = kept, gained
            if self.nesterov:
                moved_by_velocity, moved_by_gradient = decay * kept, decay * gained + 1.0
            by_velocity = by_velocity + rate * moved_by_velocity
            by_gradient = by_gradient + rate * moved_by_gradient
        spread = self.learning_rate.spread
        made = StrideMap(spread(by_velocity), spread(by_gradient), spread(kept), spread(gained))
        if self.constant:
            self._maps[count] = made
        return made

    def velocity(self, step: int, count: int, moved: Tensor) -> Tensor:
        """moved / Σα: the mean velocity of steps that moved the weights by `moved`, shape (P,).

        It is 0 where Σα is: the derivatives by the rates of such steps are 0 too, but those by a
        momentum whose velocity moves the weights later.
        """
        total: Factor = 0.0
        for j in range(step, step + count):
            total = total + self.learning_rate.at(j)
        summed = self.learning_rate.spread(total)
        if isinstance(summed, Tensor):
            return torch.where(summed > 0.0, moved / summed, 0.0)
        return moved / summed if summed > 0.0 else torch.zeros_like(moved)

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
        if gradient is not None:
            gradient = self.decayed(step, state[0], gradient)
        if self.reads_gradient:
            self._add_rates(step, count, adjoint, state[1], gradient, velocity_after)
        stride, shrink = self.stride(step, count), self.weight_decay.factor(step)
        if is_one_part(adjoint):
            self._reverse(adjoint, cotangent, stride, shrink)
        else:
            for part in parts_of(adjoint):
                own, by = stride.of(part), part_of(shrink, part)
                self._reverse(adjoint[..., part], cotangent[..., part], own, by)
        if self.weight_decay.total is not None:
            self.weight_decay.gather(step, (cotangent * state[0]).neg_())

    def _reverse(
        self, adjoint: Tensor, cotangent: Tensor, stride: StrideMap, weight_decay: Factor
    ) -> None:
        """`pull_back` without the derivatives by the rates."""
        d_weights, d_velocity = adjoint.unbind()
        torch.mul(d_weights, stride.weights_by_gradient, out=cotangent)
        add_scaled(cotangent, stride.velocity_by_gradient, d_velocity)
        d_velocity.mul_(stride.velocity_by_velocity)
        add_scaled(d_velocity, stride.weights_by_velocity, d_weights)
        if not self.weight_decay.is_zero:
            add_scaled(d_weights, weight_decay, cotangent, -1.0)

    def _add_rates(
        self,
        step: int,
        count: int,
        adjoint: Tensor,
        before: Tensor,
        gradient: Tensor | None,
        after: Tensor | None,
    ) -> None:
        """dα and dγ of every step, from a few inner products over the whole stride.

        Within the stride dv is kept dv + given dw, with the dw and dv after the stride.
        """
        along = after
        if after is None or along is None:
            assert gradient is not None
            decay = self.momentum.factor(step)
            after = decay * before - self.gain(decay) * gradient
            along = decay * after - gradient if self.nesterov else after
        w_after, v_after = self._layer_sums(adjoint, after)
        w_along = w_after if along is after else self._layer_sums(adjoint, along)[0]
        w_before, v_before, at_w, at_v = w_after, v_after, 0.0 * w_after, 0.0 * v_after
        if self.momentum.total is not None:
            w_before, v_before = self._layer_sums(adjoint, before)
            if self.damped:
                assert gradient is not None
                at_w, at_v = self._layer_sums(adjoint, gradient)
        kept: Factor = 1.0
        given: Factor = 0.0
        for j in range(step + count - 1, step - 1, -1):
            rate, decay = self.learning_rate.at(j), self.momentum.at(j)
            given = given + (rate * decay if self.nesterov else rate)
            self.learning_rate.gather(j, w_along)
            v_velocity, w_velocity = (v_before, w_before) if j == step else (v_after, w_after)
            by_decay = kept * (v_velocity + at_v) + given * (w_velocity + at_w)
            self.momentum.gather(j, by_decay + rate * w_after if self.nesterov else by_decay)
            kept, given = kept * decay, given * decay

    def _layer_sums(self, adjoint: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """<dw, other> and <dv, other>: by layer, or one number where no rate is per layer."""
        if not (self.learning_rate.per_layer or self.momentum.per_layer):
            by_weights, by_velocity = (adjoint @ other).view(2, 1)
            return by_weights, by_velocity
        sizes = list(self.learning_rate.sizes)
        parts = zip(torch.split(adjoint, sizes, dim=1), torch.split(other, sizes), strict=True)
        by_weights, by_velocity = torch.stack([left @ right for left, right in parts], dim=1)
        return by_weights, by_velocity

    def gain(self, decay: Factor) -> Factor:
        """δ at γ = `decay`."""
        return 1.0 - decay if self.damped else 1.0


def numbers(factors: Sequence[Factor]) -> tuple[float, float, float] | None:
    """The three factors if they are numbers, as they are where no layer has one of its own."""
    rate, decay, weight_decay = factors
    if isinstance(rate, float) and isinstance(decay, float) and isinstance(weight_decay, float):
        return rate, decay, weight_decay
    return None
