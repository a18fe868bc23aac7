"""The exact hypergradient, with every point of the path kept.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning, 1502.03492.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from drmad_workers.hypergradients.method import Adjoint, Method, check_horizon, last_steps
from drmad_workers.training.run import TrainingConfig, TrainingRun, TrajectoryRecorder


@dataclass(frozen=True)
class Stored(Method):
    """ŵ_t = w_t for the last N steps, as they were: exact for N = T, truncated for N < T.

    The reverse of hypergradients/base.py at the kept points; nothing is computed a second time.
    It is the yardstick of the others in speed, and what runs out of memory first.

    Cost: N Hessian-vector products.
    Memory: N copies of the weights, shape (P,) each; as many for each row of the state beside
    them that the reverse reads (of Adam, or where rates are tuned).

    Attributes:
        horizon: N; None for T.
    """

    horizon: int | None = None

    name: ClassVar[str] = "stored"

    @property
    def lockstep(self) -> bool:
        return self.hvp == "exact"

    def check(self, training: TrainingConfig) -> None:
        check_horizon(self.horizon, training.steps)

    def steps(self, training: TrainingConfig) -> range:
        return last_steps(self.horizon, training)

    def copies(self, training: TrainingConfig) -> float:
        return float(self.backward_total(training))

    def recorder(self, run: TrainingRun) -> "FullTrajectory":
        return FullTrajectory(run.steps - (self.horizon or run.steps), run.steps)

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, FullTrajectory)
        adjoint.begin(contraction=False)
        recorder.backward(run, adjoint)
        adjoint.finish(recorder.start)


class FullTrajectory:
    """The point before every step from `start` on."""

    def __init__(self, start: int, steps: int) -> None:
        self.start = start
        self.next_step = start
        self._steps = steps
        self._points: list[Tensor] = []

    def visit(self, step: int, run: TrainingRun) -> None:
        if step < self._steps:
            self._points.append(run.point.clone())
            self.next_step = step + 1

    def backward(self, run: TrainingRun, adjoint: Adjoint) -> None:
        """Reverses the steps, each point being let go of as it is passed."""
        for step in range(self._steps - 1, self.start - 1, -1):
            run.point.copy_(self._points.pop())
            adjoint.step_back(step)
