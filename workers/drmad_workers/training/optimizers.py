"""Inner update rules as functions of state, and their exact reverse.

The state is one tensor of shape (1 + S, P): the weights w, and below them the memory of the
optimizer: the velocity v, or Adam's two moments.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning, 1502.03492.
[Kingma2015] Adam: a method for stochastic optimization, 1412.6980.
[Loshchilov2019] Decoupled weight decay regularization, 1711.05101.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

Optimizer = Literal["sgd", "damped_sgd", "adam", "adamw"]

Factor = float | Tensor
"""A number, or one per layer, shape (L,); spread over the weights, shape (P,)."""


class Rate:
    """α_t or γ_t: one number, or one per step, per layer, or both.

    A layer is one parameter tensor: a matrix and its bias are two, as in [Maclaurin2015].

    Attributes:
        sizes: weights in each layer, in the order of the flat vector.
        total: where its derivative gathers, shape (L or 1, T or 1); None where it is not tuned.
    """

    def __init__(
        self, values: float | Tensor, sizes: Sequence[int] = (), total: Tensor | None = None
    ) -> None:
        """`values` has shape (L or 1, T or 1); only a plain number does without the sizes."""
        self.sizes = sizes
        self.total = total
        self._values = torch.tensor([[values]]) if isinstance(values, float) else values
        layers, steps = self._values.shape
        self.per_layer, self.per_step = layers > 1, steps > 1
        self._numbers = [values] if isinstance(values, float) else self._values[0].tolist()
        self._constant = None if self.per_step else self.spread(self.at(0))

    @property
    def tuned_per_step(self) -> bool:
        return self.per_step and self.total is not None

    def at(self, step: int) -> Factor:
        """A number, or one per layer."""
        column = step if self.per_step else 0
        return self._values[:, column] if self.per_layer else self._numbers[column]

    def factor(self, step: int) -> Factor:
        """A number, or one per weight."""
        return self.spread(self.at(step)) if self._constant is None else self._constant

    def spread(self, factor: Factor) -> Factor:
        """From one per layer, shape (L,), to one per weight, shape (P,); numbers stay."""
        if not isinstance(factor, Tensor):
            return factor
        parts = zip(factor, self.sizes, strict=True)
        return torch.cat([value.expand(size) for value, size in parts])

    def rounded(self, denominator: int) -> "Rate":
        """The nearest n / denominator with 0 < n < denominator; their derivatives gather here."""
        numerators = self._values.mul(denominator).round_().clamp_(1, denominator - 1)
        return Rate(numerators / denominator, self.sizes, self.total)

    def gather(self, step: int, derivative: Tensor) -> None:
        """Adds a derivative by the value of one step: its parts by layer, or by weight."""
        if self.total is None:
            return
        if len(derivative) > len(self.sizes) and self.per_layer:
            parts = torch.split(derivative, list(self.sizes))
            derivative = torch.stack([part.sum() for part in parts])
        elif not self.per_layer:
            derivative = derivative.sum()
        self.total[:, step if self.per_step else 0].add_(derivative)


class InnerOptimizer(ABC):
    """An update rule (w, memory) -> (w', memory') under a gradient, and its reverse.

    Attributes:
        memory_rows: S.
        point_rows: rows of the state that the reverse of a step must be told.
        path_rows: as many of them as cannot be told from the weights of neighbouring steps.
        reads_gradient: whether the reverse also needs the gradient there.
        learning_rate, momentum: α and γ (of Adam, β₁).
    """

    learning_rate: Rate
    momentum: Rate
    memory_rows: ClassVar[int]
    point_rows: int
    path_rows: int
    reads_gradient: bool

    def reads_gradient_at(self, velocity_after: Tensor | None) -> bool:
        """Whether `pull_back` needs the gradient there, beside what it is told of the path."""
        return self.reads_gradient

    @abstractmethod
    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        """Takes the state from before `step` to after it, in place; `gradient` has shape (P,)."""

    @abstractmethod
    def updated(
        self, step: int, state: Sequence[Tensor], gradient: Tensor, rate: Factor, decay: Factor
    ) -> Sequence[Tensor]:
        """The state after `step`, as a differentiable function of all but the step.

        Elementwise: the rows of the state and the gradient have shape (..., P), α_t and γ_t any
        that broadcasts.
        """

    @abstractmethod
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
        """Reverse of the joint map of the steps `step` .. `step + count - 1` under one gradient ḡ.

        All but the gradient's own dependence on w and λ. The derivatives by the rates gather in
        Rate.total.

        Args:
            adjoint: the derivatives by the state after the steps, shape (1 + S, P); those by the
                state before them are written here.
            cotangent: shape (P,); the vector u is written here for which
                (dw, dλ) -= ∂<ḡ(w, λ), u> remains to be done.
            state: where the steps are linearised, shape (1 + S, P); `point_rows` of it are read.
            gradient: ḡ there, where `reads_gradient_at` says so.
            velocity_after: see Momentum; None where the state is one of the true path.
        """


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


@dataclass
class MomentumSGD(InnerOptimizer):
    """Stochastic gradient descent with momentum.

        v_{t+1} = γ_t v_t - δ_t ∇_w L_t(w_t, λ)        w_{t+1} = w_t + α_t v_{t+1}

    with δ = 1 - γ as in [Maclaurin2015] (`damped_sgd`), or δ = 1 as in torch.optim.SGD (`sgd`).
    The reverse, where κ = 1 if damped and 0 if not:

        dα_t = dw·v_{t+1}    dv += α dw    dγ_t = dv·(v_t + κ ∇_w L_t)    u = δ dv    dv *= γ

    For the rates on a path that is not stored, v_{t+1} is told as (ŵ_{t+m} - ŵ_t)/Σα over the m
    steps of a stride: it stands for the velocity after each of them, v_t for the one before the
    first, ḡ for the gradient of each.

    Attributes:
        learning_rate: α > 0.
        momentum: γ in [0, 1).
        damped: whether δ is 1 - γ.
        constant: whether the rates are the same in every step.
    """

    learning_rate: Rate
    momentum: Rate
    damped: bool
    _maps: dict[int, StrideMap] = field(default_factory=dict)

    memory_rows: ClassVar[int] = 1

    def __post_init__(self) -> None:
        rates = (self.learning_rate, self.momentum)
        self.reads_gradient = any(rate.total is not None for rate in rates)
        self.point_rows, self.path_rows = 2 if self.reads_gradient else 1, 1
        self.constant = not any(rate.per_step for rate in rates)

    def reads_gradient_at(self, velocity_after: Tensor | None) -> bool:
        known = velocity_after is not None and self.momentum.total is None
        return self.reads_gradient and not known

    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        weights, velocity = state.unbind()
        decay = self.momentum.factor(step)
        velocity.mul_(decay)
        add_scaled(velocity, self.gain(decay), gradient, -1.0)
        add_scaled(weights, self.learning_rate.factor(step), velocity)

    def updated(
        self, step: int, state: Sequence[Tensor], gradient: Tensor, rate: Factor, decay: Factor
    ) -> Sequence[Tensor]:
        weights, velocity = state
        velocity = decay * velocity - self.gain(decay) * gradient
        return weights + rate * velocity, velocity

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
            by_velocity, by_gradient = by_velocity + rate * kept, by_gradient + rate * gained
        spread = self.learning_rate.spread
        made = StrideMap(spread(by_velocity), spread(by_gradient), spread(kept), spread(gained))
        if self.constant:
            self._maps[count] = made
        return made

    def velocity(self, step: int, count: int, moved: Tensor) -> Tensor:
        """moved / Σα: the mean velocity of steps that moved the weights by `moved`, shape (P,)."""
        total: Factor = 0.0
        for j in range(step, step + count):
            total = total + self.learning_rate.at(j)
        return moved / self.learning_rate.spread(total)

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
        d_weights, d_velocity = adjoint
        if self.reads_gradient:
            self._add_rates(step, count, adjoint, state[1], gradient, velocity_after)
        stride = self.stride(step, count)
        torch.mul(d_weights, stride.weights_by_gradient, out=cotangent)
        add_scaled(cotangent, stride.velocity_by_gradient, d_velocity)
        d_velocity.mul_(stride.velocity_by_velocity)
        add_scaled(d_velocity, stride.weights_by_velocity, d_weights)

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

        On the way back dv is kept dv + given dw, with the dw and dv from behind the stride.
        """
        if after is None:
            assert gradient is not None
            decay = self.momentum.factor(step)
            after = decay * before - self.gain(decay) * gradient
        w_after, v_after = self._layer_sums(adjoint, after)
        w_before, v_before, at_w, at_v = w_after, v_after, 0.0 * w_after, 0.0 * v_after
        if self.momentum.total is not None:
            w_before, v_before = self._layer_sums(adjoint, before)
            if self.damped:
                assert gradient is not None
                at_w, at_v = self._layer_sums(adjoint, gradient)
        kept: Factor = 1.0
        given: Factor = 0.0
        for j in range(step + count - 1, step - 1, -1):
            given = given + self.learning_rate.at(j)
            self.learning_rate.gather(j, w_after)
            v_velocity, w_velocity = (v_before, w_before) if j == step else (v_after, w_after)
            self.momentum.gather(j, kept * (v_velocity + at_v) + given * (w_velocity + at_w))
            kept, given = kept * self.momentum.at(j), given * self.momentum.at(j)

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


@dataclass
class Adam(InnerOptimizer):
    """Adam as torch.optim has it ([Kingma2015]), or AdamW where the decay is decoupled.

        g += ω w                  (adam; adamw: w *= 1 - α ω, [Loshchilov2019])
        m' = β₁ m + (1 - β₁) g    s' = β₂ s + (1 - β₂) g²
        w' = w - α m' / (1 - β₁ᵗ) / (√(s' / (1 - β₂ᵗ)) + ε),    t = 1, 2, ..

    β₁ stands for the momentum. The reverse is the vector-Jacobian product of this update, written
    out; of m steps under one gradient, that of the update applied m times. √s' has no derivative
    at 0, where a weight has had no gradient yet: it counts as 0 there.

    Attributes:
        learning_rate: α > 0.
        momentum: β₁ in [0, 1), by its present value in 1 - β₁ᵗ too, as in torch.
        second_decay: β₂ in [0, 1).
        epsilon: ε > 0.
        weight_decay: ω >= 0.
        decoupled: whether this is AdamW.
    """

    learning_rate: Rate
    momentum: Rate
    second_decay: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    memory_rows: ClassVar[int] = 2
    point_rows = path_rows = 3
    reads_gradient = True

    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        weights, first, second = state
        rate, decay = self.learning_rate.factor(step), self.momentum.factor(step)
        if self.weight_decay and self.decoupled:
            weights.mul_(1.0 - self.weight_decay * rate)
        elif self.weight_decay:
            gradient = gradient.add(weights, alpha=self.weight_decay)
        first.lerp_(gradient, 1.0 - decay)
        second.mul_(self.second_decay)
        second.addcmul_(gradient, gradient, value=1.0 - self.second_decay)
        root = (second / (1.0 - self.second_decay ** (step + 1))).sqrt_().add_(self.epsilon)
        size = rate / (1.0 - decay ** (step + 1))
        if isinstance(size, Tensor):
            weights.sub_(root.reciprocal_().mul_(first).mul_(size))
        else:
            weights.addcdiv_(first, root, value=-size)

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
        points = [state]
        for j in range(step, step + count - 1):
            points.append(points[-1].clone())
            self.step(j, points[-1], gradient)
        cotangent.zero_()
        for j in range(step + count - 1, step - 1, -1):
            self._reverse(j, points[j - step], gradient, adjoint, cotangent)

    def _reverse(
        self, step: int, state: Tensor, gradient: Tensor, adjoint: Tensor, cotangent: Tensor
    ) -> None:
        """`pull_back` of one step; adds to u."""
        weights, first, second = state
        d_weights, d_first, d_second = adjoint
        rate, decay, time = self.learning_rate.factor(step), self.momentum.factor(step), step + 1
        if self.weight_decay and not self.decoupled:
            gradient = gradient.add(weights, alpha=self.weight_decay)
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
                by_rate.addcmul_(d_weights, weights, value=-self.weight_decay)
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
        if self.weight_decay and self.decoupled:
            d_weights.mul_(1.0 - self.weight_decay * rate)
        elif self.weight_decay:
            d_weights.add_(d_gradient, alpha=self.weight_decay)

    def updated(
        self, step: int, state: Sequence[Tensor], gradient: Tensor, rate: Factor, decay: Factor
    ) -> Sequence[Tensor]:
        weights, first, second = state
        if self.weight_decay and self.decoupled:
            weights = weights * (1.0 - self.weight_decay * rate)
        elif self.weight_decay:
            gradient = gradient + self.weight_decay * weights
        first = decay * first + (1.0 - decay) * gradient
        second = self.second_decay * second + (1.0 - self.second_decay) * gradient.square()
        scaled = second / (1.0 - self.second_decay ** (step + 1))
        root = torch.where(scaled > 0.0, scaled, 1.0).sqrt() * (scaled > 0.0)
        size = rate / (1.0 - decay ** (step + 1))
        return weights - size * first / (root + self.epsilon), first, second


def add_scaled(out: Tensor, factor: Factor, tensor: Tensor, sign: float = 1.0) -> None:
    """out += sign factor tensor, in place; all of shape (P,) but the factor, which may be one."""
    if isinstance(factor, float):
        out.add_(tensor, alpha=sign * factor)
    else:
        out.addcmul_(tensor, factor, value=sign)
