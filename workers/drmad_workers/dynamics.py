"""Inner update rules as functions of state, and their exact reverse.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning, 1502.03492.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Optimizer = Literal["sgd", "damped_sgd"]


@dataclass(frozen=True)
class StrideMap:
    """The joint effect of m steps under a constant gradient ḡ, as numbers.

    w_m = w + weights_by_velocity v - weights_by_gradient ḡ
    v_m = velocity_by_velocity v - velocity_by_gradient ḡ
    """

    weights_by_velocity: float
    weights_by_gradient: float
    velocity_by_velocity: float
    velocity_by_gradient: float


@dataclass(frozen=True)
class Momentum:
    """Stochastic gradient descent with momentum.

        v_{t+1} = γ v_t - δ ∇_w L_t(w_t, λ)        w_{t+1} = w_t + α v_{t+1}

    with δ = 1 - γ as in [Maclaurin2015] (`damped_sgd`), or δ = 1 as in torch.optim.SGD (`sgd`).

    Attributes:
        learning_rate: α > 0.
        momentum: γ in [0, 1).
        damped: whether δ is 1 - γ.
    """

    learning_rate: float
    momentum: float
    damped: bool

    def step(self, weights: Tensor, velocity: Tensor, gradient: Tensor) -> None:
        """One update in place; all of shape (P,)."""
        gain = 1.0 - self.momentum if self.damped else 1.0
        velocity.mul_(self.momentum).sub_(gradient, alpha=gain)
        weights.add_(velocity, alpha=self.learning_rate)

    def stride(self, count: int) -> StrideMap:
        """The m-step map, m = `count`, for a gradient that stays the same on the way.

        With s_v = γ(1-γ^m)/(1-γ) and s_g = m - s_v:
        w_m = w + α s_v v - α s_g (δ/(1-γ)) ḡ and v_m = γ^m v - (1-γ^m) (δ/(1-γ)) ḡ.
        m = 1 is the update itself.
        """
        decay = self.momentum**count
        by_velocity = self.momentum * (1.0 - decay) / (1.0 - self.momentum)
        gain = 1.0 if self.damped else 1.0 / (1.0 - self.momentum)
        return StrideMap(
            weights_by_velocity=self.learning_rate * by_velocity,
            weights_by_gradient=self.learning_rate * (count - by_velocity) * gain,
            velocity_by_velocity=decay,
            velocity_by_gradient=(1.0 - decay) * gain,
        )

    def pull_back(
        self, stride: StrideMap, d_weights: Tensor, d_velocity: Tensor, cotangent: Tensor
    ) -> None:
        """Reverse of the m-step map, but for the gradient's own dependence on w and λ.

        Writes into `cotangent` the vector u for which (dw, dλ) -= ∂<ḡ(w, λ), u>, and updates
        `d_velocity`; `d_weights` is left for the caller. All of shape (P,).
        """
        cotangent.copy_(d_weights).mul_(stride.weights_by_gradient)
        cotangent.add_(d_velocity, alpha=stride.velocity_by_gradient)
        d_velocity.mul_(stride.velocity_by_velocity)
        d_velocity.add_(d_weights, alpha=stride.weights_by_velocity)


def make_dynamics(optimizer: Optimizer, learning_rate: float, momentum: float) -> Momentum:
    return Momentum(learning_rate, momentum, damped=optimizer == "damped_sgd")
