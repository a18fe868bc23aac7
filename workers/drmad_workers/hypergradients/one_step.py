"""T1-T2: the last inner step alone.

[Luketina2016] Scalable gradient-based tuning of continuous regularization hyperparameters,
1511.06727. [Shaban2019] Truncated back-propagation for bilevel optimization, 1810.10667.
"""

from dataclasses import dataclass
from typing import ClassVar

from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.hypergradients.stored import FullTrajectory
from drmad_workers.training.run import TrainingConfig, TrainingRun, TrajectoryRecorder


@dataclass(frozen=True)
class OneStep(Method):
    """w_{T-1} counts as given, so that λ acts through the last step alone ([Luketina2016]).

        dλ = ∂f/∂λ - α δ ∂/∂λ <∇_w L_{T-1}(w_{T-1}, λ), ∇f(w_T)>

    for momentum (δ as in dynamics.Momentum); for Adam likewise through its update. A horizon of
    one step: short-sighted, its bias does not vanish as T grows.

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
        return range(training.steps - 1, training.steps)

    def recorder(self, run: TrainingRun) -> FullTrajectory:
        return FullTrajectory(run.steps - 1, run.steps)

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, FullTrajectory)
        adjoint.begin(contraction=False)
        recorder.backward(run, adjoint)
        adjoint.finish(recorder.start)
