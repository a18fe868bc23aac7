"""T1-T2: truncation to the last inner step.

[Luketina2016] Scalable gradient-based tuning of continuous regularization hyperparameters,
1511.06727. [Shaban2019] Truncated back-propagation for bilevel optimization, 1810.10667.
"""

from dataclasses import dataclass
from typing import ClassVar

from drmad_workers.data.pass_order import Order
from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.hypergradients.stored import Stored
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder

_LAST_STEP = Stored(horizon=1)


@dataclass(frozen=True)
class OneStep(Method):
    """Differentiates the last inner step and treats w_{T-1} as a constant [Luketina2016].

        dλ = ∂f/∂λ - α δ ∂/∂λ <∇_w L_{T-1}(w_{T-1}, λ), ∇f(w_T)>

    holds for momentum, with δ as in optimizers.MomentumSGD; for Adam the last update is
    differentiated likewise. The method equals `stored` with a horizon of one step. Its bias does
    not vanish as T grows [Shaban2019].

    Cost: one Hessian-vector product.
    Memory: one copy of the weights, shape (P,).
    """

    name: ClassVar[str] = "one_step"

    @property
    def lockstep(self) -> bool:
        return self.hvp == "exact"

    def check(self, training: TrainingConfig) -> None:
        pass

    def steps(self, training: TrainingConfig) -> range:
        return _LAST_STEP.steps(training)

    def trajectory_bytes(self, run: TrainingRun, training: TrainingConfig) -> int:
        return _LAST_STEP.trajectory_bytes(run, training)

    def recorder(self, run: TrainingRun) -> TrajectoryRecorder:
        return _LAST_STEP.recorder(run)

    def order(self, run: TrainingRun, recorder: TrajectoryRecorder) -> Order:
        return _LAST_STEP.order(run, recorder)

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        _LAST_STEP.backward(run, recorder, adjoint)
