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
        self._counts = torch.tensor(sizes, device=self._values.device)
        self._constant = self.spread(self._values[:, 0]) if self.per_layer else None

    def at(self, step: int) -> Factor:
        """A number, or one per layer."""
        column = step if self.per_step else 0
        return self._values[:, column] if self.per_layer else self._numbers[column]

    def factor(self, step: int) -> Factor:
        """A number, or one per weight."""
        if self._constant is not None and not self.per_step:
            return self._constant
        return self.spread(self.at(step))

    def spread(self, factor: Factor) -> Factor:
        """From one per layer, shape (L,), to one per weight, shape (P,); numbers stay."""
        if not isinstance(factor, Tensor):
            return factor
        return torch.repeat_interleave(factor, self._counts, output_size=sum(self.sizes))

    def rounded(self, denominator: int) -> "Rate":
        """The nearest n / denominator with 0 < n < denominator; their derivatives gather here."""
        numerators = self._values.mul(denominator).round_().clamp_(1, denominator - 1)
        return Rate(numerators / denominator, self.sizes, self.total)

    def leaf(self, step: int, count: int) -> Tensor | None:
        """The values of these steps to be differentiated by; None where nobody tunes them."""
        if self.total is None:
            return None
        columns = self._values[:, step : step + count] if self.per_step else self._values
        return columns.detach().clone().requires_grad_()

    def factor_of(self, leaf: Tensor | None, step: int, number: int) -> Factor:
        """The factor of step `step + number`, differentiable by the leaf of `step`."""
        if leaf is None:
            return self.factor(step + number)
        column = leaf[:, number if self.per_step else 0]
        return self.spread(column) if self.per_layer else column[0]

    def add(self, step: int, derivative: Tensor) -> None:
        """Gathers a derivative by the values from `step` on, shape (L or 1, steps or 1)."""
        if self.total is not None:
            if not self.per_layer:
                derivative = derivative.sum(dim=0, keepdim=True)
            first = step if self.per_step else 0
            self.total[:, first : first + derivative.shape[1]].add_(derivative)


class Dynamics(ABC):
    """An update rule (w, memory) -> (w', memory') under a gradient, and its reverse.

    Attributes:
        memory_rows: S.
        point_rows: rows of the state that the reverse of a step must be told.
        path_rows: as many of them as cannot be told from the weights of neighbouring steps.
        reads_gradient: whether the reverse also needs the gradient there.
    """

    memory_rows: ClassVar[int]
    point_rows: int
    path_rows: int
    reads_gradient: bool

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
            gradient: ḡ there, where `reads_gradient`.
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
class Momentum(Dynamics):
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
        self._constant = not any(rate.per_step for rate in rates)

    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        weights, velocity = state
        decay = self.momentum.factor(step)
        velocity.mul_(decay)
        add_scaled(velocity, self._gain(decay), gradient, -1.0)
        add_scaled(weights, self.learning_rate.factor(step), velocity)

    def updated(
        self, step: int, state: Sequence[Tensor], gradient: Tensor, rate: Factor, decay: Factor
    ) -> Sequence[Tensor]:
        weights, velocity = state
        velocity = decay * velocity - self._gain(decay) * gradient
        return weights + rate * velocity, velocity

    def stride(self, step: int, count: int) -> StrideMap:
        """The map of the m = `count` steps from `step` on for a gradient that stays the same.

        Where the rates stay the same too, with s_v = γ(1-γ^m)/(1-γ) and s_g = m - s_v:
        w_m = w + α s_v v - α s_g (δ/(1-γ)) ḡ and v_m = γ^m v - (1-γ^m) (δ/(1-γ)) ḡ.
        m = 1 is the update itself.
        """
        known = self._maps.get(count) if self._constant else None
        if known is not None:
            return known
        by_velocity: Factor = 0.0
        by_gradient: Factor = 0.0
        kept: Factor = 1.0
        gained: Factor = 0.0
        for j in range(step, step + count):
            rate, decay = self.learning_rate.at(j), self.momentum.at(j)
            kept, gained = decay * kept, decay * gained + self._gain(decay)
            by_velocity, by_gradient = by_velocity + rate * kept, by_gradient + rate * gained
        spread = self.learning_rate.spread
        made = StrideMap(spread(by_velocity), spread(by_gradient), spread(kept), spread(gained))
        if self._constant:
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
        if gradient is not None:
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
        gradient: Tensor,
        after: Tensor | None,
    ) -> None:
        """dα and dγ of every step, from a few inner products over the whole stride.

        On the way back dv is kept dv + given dw, with the dw and dv from behind the stride.
        """
        if after is None:
            decay = self.momentum.factor(step)
            after = decay * before - self._gain(decay) * gradient
        w_after, v_after = self._layer_sums(adjoint, after)
        w_before, v_before = self._layer_sums(adjoint, before)
        w_gradient, v_gradient = self._layer_sums(adjoint, gradient * float(self.damped))
        kept: Factor = 1.0
        given: Factor = 0.0
        for j in range(step + count - 1, step - 1, -1):
            given = given + self.learning_rate.at(j)
            self.learning_rate.add(j, w_after[:, None])
            v_at, w_at = (v_before, w_before) if j == step else (v_after, w_after)
            derivative = kept * (v_at + v_gradient) + given * (w_at + w_gradient)
            self.momentum.add(j, derivative[:, None])
            kept, given = kept * self.momentum.at(j), given * self.momentum.at(j)

    def _layer_sums(self, adjoint: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """<dw, other> and <dv, other> by layer, shape (L,)."""
        products = torch.split(adjoint * other, list(self.learning_rate.sizes), dim=1)
        by_weights, by_velocity = torch.stack([part.sum(dim=1) for part in products], dim=1)
        return by_weights, by_velocity

    def _gain(self, decay: Factor) -> Factor:
        return 1.0 - decay if self.damped else 1.0


@dataclass
class Adam(Dynamics):
    """Adam as torch.optim has it ([Kingma2015]), or AdamW where the decay is decoupled.

        g += ω w                  (adam; adamw: w *= 1 - α ω, [Loshchilov2019])
        m' = β₁ m + (1 - β₁) g    s' = β₂ s + (1 - β₂) g²
        w' = w - α m' / (1 - β₁ᵗ) / (√(s' / (1 - β₂ᵗ)) + ε),    t = 1, 2, ..

    β₁ stands for the momentum. The reverse is the vector-Jacobian product of this update; of m
    steps under one gradient, that of the update applied m times. √s' has no derivative at 0,
    where a weight has had no gradient yet: it counts as 0 there.

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
        rates = (self.learning_rate, self.momentum)
        leaves = [rate.leaf(step, count) for rate in rates]
        inputs = [row.detach().requires_grad_() for row in (*state, gradient)]
        with torch.enable_grad():
            moments: Sequence[Tensor] = inputs[:3]
            for j in range(count):
                rate, decay = (
                    rate.factor_of(leaf, step, j) for rate, leaf in zip(rates, leaves, strict=True)
                )
                moments = self.updated(step + j, moments, inputs[3], rate, decay)
        inputs += [leaf for leaf in leaves if leaf is not None]
        parts = torch.autograd.grad(moments, inputs, list(adjoint))
        adjoint.copy_(torch.stack(parts[:3]))
        torch.neg(parts[3], out=cotangent)
        derivatives = iter(parts[4:])
        for tuned, leaf in zip(rates, leaves, strict=True):
            if leaf is not None:
                tuned.add(step, next(derivatives))

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
    if isinstance(factor, Tensor):
        out.addcmul_(tensor, factor, value=sign)
    else:
        out.add_(tensor, alpha=sign * factor)
