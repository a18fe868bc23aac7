"""The full trajectory: one recorded point for every step."""

from collections.abc import Iterator

from torch import Tensor

from drmad_workers.training.run import TrainingRun


class FullTrajectory:
    """Records the point before every step t of `start` .. `steps - 1`, one copy each."""

    def __init__(self, start: int, steps: int) -> None:
        self.start = start
        self.next_step = start
        self._steps = steps
        self._points: list[Tensor] = []

    @property
    def points(self) -> tuple[Tensor, ...]:
        """The points that are recorded and not yet freed, the first step first."""
        return tuple(self._points)

    def visit(self, step: int, run: TrainingRun) -> None:
        if step < self._steps:
            self._points.append(run.point.clone())
            self.next_step = step + 1

    def backward(self, run: TrainingRun) -> Iterator[int]:
        """Places the run on every point, the last step first, and frees the point."""
        for step in range(self._steps - 1, self.start - 1, -1):
            run.point.copy_(self._points.pop())
            yield step
