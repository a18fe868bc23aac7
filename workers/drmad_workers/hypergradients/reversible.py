"""The exact hypergradient, with the path recovered backwards bit for bit.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning, 1502.03492:
the method that DrMAD's paper compares against.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from drmad_workers.errors import PathNotRecovered, ProblemError
from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.training.optimizers import Factor, MomentumSGD
from drmad_workers.training.run import CHECK_EVERY, TrainingConfig, TrainingRun, TrajectoryRecorder
from drmad_workers.trajectory.fixed_point import (
    DENOMINATOR,
    InformationBuffer,
    limit,
    to_fixed,
    to_float,
)

WEIGHT_BITS, VELOCITY_BITS = 52, 55
"""Of the fraction. The paper has 52 for both; a product of the velocity is off by up to 65536 in
the last place, which 3 more bits bring down to 2e-12."""


@dataclass(frozen=True)
class Reversible(Method):
    """ŵ_t = w_t, computed backwards from w_T by undoing each step ([Maclaurin2015]).

    Training itself goes in fixed point (w < 1024 over 2^52, v < 128 over 2^55), with γ rounded to
    the nearest n / 65536 (at least 1 / 65536), in this order:

        v <- v n / 65536        v <- v - δ ∇_w L_t(w, λ)        w <- w + α v

    The first line puts the digits that v loses into an information buffer
    (fixed_point.InformationBuffer); the others add integers. On the way back each line is undone
    in turn, and the reverse of hypergradients/base.py is taken at that γ. Exact, with the initial
    weights (rounded to 2^-52) found again to the last bit. The gradient must come out the same
    when it is computed twice; where it does not (some kernels of a GPU), the way back does not
    end at v_0 = 0, and that is told.

    Cost: T Hessian-vector products and T gradients beyond the training.
    Memory: 3 integers of 64 bits per weight, and T log2(1/γ) / 47 more for the buffer.
    """

    name: ClassVar[str] = "reversible"

    @property
    def takes_part(self) -> bool:
        return True

    def check(self, training: TrainingConfig) -> None:
        if training.is_adam:
            raise ProblemError(
                f"reversible undoes sgd and damped_sgd, not {training.optimizer}: use replay",
                "training.optimizer",
            )

    def cost(self, training: TrainingConfig) -> float:
        return super().cost(training) + 1.0

    def copies(self, training: TrainingConfig) -> float:
        words = 3.0 + training.steps * math.log2(1.0 / max(training.momentum, 1 / DENOMINATOR)) / 47
        return 2.0 * words

    def recorder(self, run: TrainingRun) -> "Undoing":
        """The run takes its steps in fixed point, up to the last one."""
        assert isinstance(run.dynamics, MomentumSGD)
        run.dynamics = FixedPointMomentum(run.dynamics, run.state)
        return Undoing(run.dynamics, 1 if run.objective.device.type == "cpu" else CHECK_EVERY)

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, Undoing)
        adjoint.begin(contraction=False)
        objective, dynamics = run.objective, recorder.dynamics
        for step in range(run.steps - 1, -1, -1):
            dynamics.undo_weights(step, run.state)
            objective.inner_gradient(run.batch(step), run.gradient)
            dynamics.undo_velocity(step, run.state, run.gradient)
            adjoint.step_back(step)
        adjoint.finish(0)
        wrong = int(dynamics.integer_velocity.count_nonzero())
        if wrong:
            raise PathNotRecovered(wrong, len(dynamics.integer_velocity))


class Undoing:
    """Begins the training on the fixed-point grid, and watches that it stays in its range.

    After the last step the run goes on in floats: other methods may walk back from there too.
    """

    def __init__(self, dynamics: "FixedPointMomentum", every: int) -> None:
        self.dynamics = dynamics
        self.next_step = 0
        self._every = every

    def visit(self, step: int, run: TrainingRun) -> None:
        if step == 0:
            self.dynamics.begin(run.state)
        weights, velocity = self.dynamics.reached.tolist()
        require_range("weights", weights, WEIGHT_BITS, step)
        require_range("velocity", velocity, VELOCITY_BITS, step)
        if step < run.steps:
            self.next_step = min(step + self._every, run.steps)
        else:
            run.dynamics = self.dynamics.in_floats()


class FixedPointMomentum(MomentumSGD):
    """dynamics.Momentum on integers, at γ = n / 65536; the state shows them as floats.

    Attributes:
        integer_weights, integer_velocity: w 2^52 and v 2^55, int64, shape (P,).
        reached: the largest |w| and |v| so far, shape (2,).
    """

    def __init__(self, rule: MomentumSGD, state: Tensor) -> None:
        super().__init__(rule.learning_rate, rule.momentum.rounded(DENOMINATOR), rule.damped)
        self._buffer = InformationBuffer()
        self.integer_weights = to_fixed(state[0], WEIGHT_BITS)
        self.integer_velocity = torch.zeros_like(self.integer_weights)
        self.reached = state.new_zeros(2)

    def begin(self, state: Tensor) -> None:
        """Takes w_0 from the state, with v_0 = 0, and puts it there as the grid has it."""
        self.integer_weights = to_fixed(state[0], WEIGHT_BITS)
        self.integer_velocity.zero_()
        self._show(state)

    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        decay = self.momentum.factor(step)
        self._buffer.multiply(self.integer_velocity, numerator(decay))
        self.integer_velocity.sub_(to_fixed(self.gain(decay) * gradient.double(), VELOCITY_BITS))
        self.integer_weights.add_(self._stride(step))
        self._show(state)

    def undo_weights(self, step: int, state: Tensor) -> None:
        """w from after `step` to before it."""
        self.integer_weights.sub_(self._stride(step))
        self._show(state)

    def undo_velocity(self, step: int, state: Tensor, gradient: Tensor) -> None:
        """v from after `step` to before it, by the gradient at the w before it."""
        decay = self.momentum.factor(step)
        self.integer_velocity.add_(to_fixed(self.gain(decay) * gradient.double(), VELOCITY_BITS))
        self._buffer.divide(self.integer_velocity, numerator(decay))
        self._show(state)

    def in_floats(self) -> MomentumSGD:
        """The same rule on the state alone."""
        return MomentumSGD(self.learning_rate, self.momentum, self.damped)

    def _stride(self, step: int) -> Tensor:
        velocity = to_float(self.integer_velocity, VELOCITY_BITS)
        return to_fixed(self.learning_rate.factor(step) * velocity, WEIGHT_BITS)

    def _show(self, state: Tensor) -> None:
        state[0].copy_(to_float(self.integer_weights, WEIGHT_BITS))
        state[1].copy_(to_float(self.integer_velocity, VELOCITY_BITS))
        self.reached = torch.maximum(self.reached, state.abs().amax(dim=1))


def require_range(what: str, reached: float, bits: int, step: int) -> None:
    if not reached < limit(bits):
        raise ProblemError(
            f"{what} must stay below {limit(bits):.0f} in fixed point, got {reached:.4g} before "
            f"step {step}: lower the learning rate, or use replay",
            "hypergradient.method",
        )


def numerator(decay: Factor) -> int | Tensor:
    """n of γ = n / 65536."""
    product = decay * DENOMINATOR
    return product.round().long() if isinstance(product, Tensor) else round(product)
