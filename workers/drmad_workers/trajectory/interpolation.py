"""Points of the training's path, averaged over windows, and the polyline through them."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from drmad_workers.training.run import TrainingRun


def node_steps(start: int, stop: int, knots: int) -> list[int]:
    """Increasing steps of min(K, N) knots between `start` (the first) and `stop` (left out).

    t_j = start + N (1 - (1 - j/K)²), pushed apart where rounding would join two.
    """
    length = stop - start
    count = min(knots, length)
    steps = [start + round(length * (1.0 - (1.0 - j / count) ** 2)) for j in range(count)]
    ceiling = stop
    for j in range(count - 1, -1, -1):
        ceiling = steps[j] = min(steps[j], ceiling - 1)
    return steps


class InterpolatedTrajectory:
    """Kept points of the path: the states at some steps, or their means in windows around them.

    The window of a knot at step t is [t - a/2, t + a/2), cut at the first knot and at T, and the
    point counts as the one at the window's mean step; without a given length a reaches the next
    knot. The end point is w_T itself.

    Attributes:
        start: step of the first knot.
    """

    def __init__(self, steps: Sequence[int], stop: int, average: int | None) -> None:
        self.start = steps[0]
        self._stop = stop
        lengths = [average or following - step for step, following in pairwise([*steps, stop])]
        self._windows = [
            (max(self.start, step - length // 2), min(stop, step + length - length // 2))
            for step, length in zip(steps, lengths, strict=True)
        ]
        self._times = [0.5 * (first + last - 1) for first, last in self._windows]
        self._points: list[Tensor] = []
        self._from = 0
        self.next_step = self._windows[0][0]

    def visit(self, step: int, run: TrainingRun) -> None:
        point = run.path
        if step == self._stop:
            self._points.append(point.clone())
            self._times.append(float(step))
            return
        for number in range(self._from, len(self._windows)):
            first, last = self._windows[number]
            if first > step:
                break
            if first == step:
                self._points.append(point / (last - first))
            elif step < last:
                self._points[number].add_(point, alpha=1.0 / (last - first))
        while self._from < len(self._windows) and self._windows[self._from][1] <= step + 1:
            self._from += 1
        self.next_step = self._next(step + 1)

    def point(self, time: float, out: Tensor) -> None:
        """Writes the state at `time` (in steps) on the polyline into `out`, shape (rows, P)."""
        after = 1
        while after < len(self._times) - 1 and self._times[after] < time:
            after += 1
        left, right = self._times[after - 1], self._times[after]
        torch.lerp(
            self._points[after - 1],
            self._points[after],
            max(0.0, (time - left) / (right - left)),
            out=out,
        )

    def back(self, run: TrainingRun) -> "Iterator[InterpolatedTrajectory]":
        """The whole of it at once."""
        yield self

    def ends(self) -> tuple[Tensor, Tensor]:
        """The first and the last point."""
        return self._points[0], self._points[-1]

    def _next(self, step: int) -> int:
        """The next step at or after `step` inside a window, or the end."""
        for first, last in self._windows[self._from :]:
            if step < last:
                return max(step, first)
        return self._stop
