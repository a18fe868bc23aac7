"""The exact hypergradient along a trajectory that is recovered backwards bit for bit.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning, 1502.03492:
the method that DrMAD's paper compares against.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from drmad_client.spec import refusals
from drmad_workers.errors import PathNotRecovered
from drmad_workers.hypergradients.method import Adjoint, Method, require_none
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.optimizers import MomentumSGD
from drmad_workers.training.run import CHECK_EVERY, TrainingRun, TrajectoryRecorder
from drmad_workers.trajectory.fixed_point import (
    DENOMINATOR,
    FixedPointMomentum,
    FixedPointTrajectory,
)

WORD_BITS = 47
"""The bits of a word of the buffer that are in use when the next word begins."""


@dataclass(frozen=True)
class Reversible(Method):
    """Linearizes at ŵ_t = w_t, recovered from w_T by reversing each step [Maclaurin2015].

    Training runs in fixed point (|w| < 1024 with 52 fractional bits, |v| < 128 with 55), with γ
    rounded to the nearest n / 65536, at least 1 / 65536:

        v <- v n / 65536        v <- v - δ ∇_w L_t(w, λ)        w <- w + α v

    An information buffer keeps the digits that the first line drops; the other lines add integers.
    The backward pass reverses the lines one by one and takes the adjoint step of
    hypergradients/method.py at the rounded γ. The method is exact for this γ, and recovers the
    initial weights, rounded to 2^-52, to the last bit.

    It requires that a gradient comes out the same when it is computed twice. With kernels that are
    not deterministic, as on some GPUs, the recovered v_0 differs from 0; the method detects this
    and raises PathNotRecovered.

    Cost: T Hessian-vector products and T gradients in addition to the training.
    Memory: two 64-bit integers per weight, and T log2(1/γ) / 47, rounded up, for the buffer.
    Carried values (running statistics), which training overwrites, are kept for every step.
    """

    name: ClassVar[str] = "reversible"

    @property
    def takes_part(self) -> bool:
        return True

    def check(self, training: TrainingConfig) -> None:
        require_none(refusals.reversible_refusals(training.optimizer, training.nesterov))

    def cost(self, training: TrainingConfig) -> float:
        return super().cost(training) + 1.0

    def copies(self, training: TrainingConfig) -> float:
        bits = training.steps * math.log2(1.0 / max(training.momentum, 1 / DENOMINATOR))
        return 2.0 * (2.0 + math.ceil(bits / WORD_BITS))

    def trajectory_bytes(self, run: TrainingRun, training: TrainingConfig) -> int:
        numbers = run.objective.parameters.weights.numel()
        carried = training.steps * run.objective.parameters.carried_flat.nbytes
        return round(self.copies(training) * 4 * numbers) + carried

    def recorder(self, run: TrainingRun) -> FixedPointTrajectory:
        """Switches the run to fixed point up to its last step."""
        assert isinstance(run.dynamics, MomentumSGD)
        run.dynamics = FixedPointMomentum(run.dynamics, run.optimizer_state)
        on_cpu = run.state.device.type == "cpu"
        return FixedPointTrajectory(run.dynamics, 1 if on_cpu else CHECK_EVERY)

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, FixedPointTrajectory)
        adjoint.begin(contraction=False)
        dynamics = recorder.dynamics
        for step in range(run.steps - 1, -1, -1):
            recorder.restore_carried(step, run)
            dynamics.undo_weights(step, run.optimizer_state)
            run.compute_gradient(step)
            recorder.restore_carried(step, run)
            dynamics.undo_velocity(step, run.optimizer_state, run.gradient)
            adjoint.step_back(step)
        adjoint.finish(0)
        wrong = int(dynamics.integer_velocity.count_nonzero())
        if wrong:
            raise PathNotRecovered(wrong, len(dynamics.integer_velocity))
