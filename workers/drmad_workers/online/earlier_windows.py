"""The windows before the one that is differentiated, through which its backward pass may go on.

A window of w steps under a horizon of N > w is differentiated by a shift of λ that the last N steps
have in common. The adjoint at the begin of the window goes on through the N - w steps before it,
each linearised where it was taken, at the λ with which it was taken.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from drmad_workers.hypergradients.method import Adjoint
from drmad_workers.objective.objective import Objective
from drmad_workers.training.kept_minibatches import KeptMinibatches
from drmad_workers.training.run import TrainingRun

Values = Mapping[str, Tensor]
"""λ by name, before the transform."""


@dataclass(frozen=True)
class EarlierWindow:
    """A window that was taken.

    Attributes:
        first: the number of its first step.
        values: its λ.
        points: what its steps are linearised at, see TrainingRun.point.
        minibatches: those that it keeps.
    """

    first: int
    values: Values
    points: Sequence[Tensor]
    minibatches: KeptMinibatches | None


RunOf = Callable[[EarlierWindow], TrainingRun]
"""The run of a window, at the hyperparameters that the objective holds."""


@dataclass
class EarlierWindows:
    """The last windows of a training run, one after the other.

    Attributes:
        steps: the steps before a window through which its backward pass goes on.
        kept: the windows, the last one last.
        draw: the draw of their training run.
    """

    steps: int
    kept: list[EarlierWindow] = field(default_factory=list)
    draw: int = 0

    def drop_old(self) -> None:
        """Keeps the windows that the backward pass of the next one reads."""
        found = 0
        for number in range(len(self.kept) - 1, -1, -1):
            if found >= self.steps:
                del self.kept[: number + 1]
                return
            found += len(self.kept[number].points)

    def go_to(self, step: int, draw: int, given: Sequence[EarlierWindow] = ()) -> None:
        """Keeps the windows that lead to a step of a training run, and none of another run.

        Args:
            given: those of the state from which the run continues.
        """
        if given:
            self.kept, self.draw = list(given), draw
        self.kept = [each for each in self.kept if each.first < step and draw == self.draw]
        self.draw = draw
        if self.kept and self.kept[-1].first + len(self.kept[-1].points) != step:
            self.kept = []

    def continued(
        self, objective: Objective, adjoint: Adjoint, found: Values, run_of: RunOf
    ) -> tuple[dict[str, Tensor], int]:
        """Goes on with a backward pass that has come to the begin of a window.

        Args:
            objective: holds no dλ; afterwards it holds the λ of an earlier window.
            adjoint: that of the state at the begin of the window, which is moved.
            found: the hypergradient of the window.
        Returns:
            The hypergradient of all steps, and the number of steps that were added.
        Raises:
            HypergradientError, Stopped.
        """
        total, left = dict(found), self.steps
        for window in reversed(self.kept):
            objective.set_hyperparameters(window.values)
            run = run_of(window)
            last = len(window.points)
            if left == 0 or window.points[-1].shape != run.point.shape:
                break
            objective.begin_products()
            adjoint.follow(run)
            start = max(0, last - left)
            for step in range(last - 1, start - 1, -1):
                run.point.copy_(window.points[step])
                adjoint.step_back(step)
            adjoint.finish(start)
            for name, part in objective.hypergradient().items():
                total[name] = total[name] + part
            left -= last - start
        return total, self.steps - left
