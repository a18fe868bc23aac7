"""The exact hypergradient along the stored trajectory.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning, 1502.03492.
"""

from dataclasses import dataclass
from typing import ClassVar

from drmad_workers.data.pass_order import Order
from drmad_workers.hypergradients.method import Adjoint
from drmad_workers.hypergradients.truncation import TruncatedMethod
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder
from drmad_workers.trajectory.full import FullTrajectory


@dataclass(frozen=True)
class Stored(TruncatedMethod):
    """Linearizes at the stored points ŵ_t = w_t of the last N steps.

    The method runs the adjoint recursion of hypergradients/method.py, which is exact for N = T and
    truncated for N < T. It recomputes nothing: it is the fastest exact method in reverse mode, and
    the one whose memory grows fastest with N.

    Cost: N Hessian-vector products.
    Memory: N copies of the weights, shape (P,) each, and as many for each further row of the state
    that the reverse reads (the moments of Adam; the velocity where the rates are tuned).

    Attributes:
        horizon: N; None for T.
    """

    name: ClassVar[str] = "stored"

    def copies(self, training: TrainingConfig) -> float:
        return float(self.backward_total(training))

    def trajectory_bytes(self, run: TrainingRun, training: TrainingConfig) -> int:
        return self.backward_total(training) * run.point.nbytes

    def recorder(self, run: TrainingRun) -> FullTrajectory:
        return FullTrajectory(run.steps - (self.horizon or run.steps), run.steps)

    def order(self, run: TrainingRun, recorder: TrajectoryRecorder) -> Order:
        assert isinstance(recorder, FullTrajectory)
        return run.order(range(run.steps - 1, recorder.start - 1, -1))

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, FullTrajectory)
        adjoint.begin(contraction=False)
        for step in recorder.backward(run):
            adjoint.step_back(step)
        adjoint.finish(recorder.start)
