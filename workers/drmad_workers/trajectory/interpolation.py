"""A piecewise linear trajectory through a few nodes, optionally averaged over windows."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from drmad_workers.training.run import TrainingRun


def node_steps(start: int, stop: int, nodes: int) -> list[int]:
    """The steps of min(K, N) interpolation nodes in `start` .. `stop - 1`, strictly increasing.

    t_j = start + N (1 - (1 - j/K)²) for j = 0 .. K-1 and N = stop - start. The first node is at
    `start`. Nodes that would fall on the same step after rounding are moved apart.
    """
    length = stop - start
    count = min(nodes, length)
    steps = [start + round(length * (1.0 - (1.0 - j / count) ** 2)) for j in range(count)]
    ceiling = stop
    for j in range(count - 1, -1, -1):
        ceiling = steps[j] = min(steps[j], ceiling - 1)
    return steps


class InterpolatedTrajectory:
    """The states at the interpolation nodes, or their means over windows around the nodes.

    The window of a node at step t is [t - a/2, t + a/2), clipped to the steps between the first
    node and T. Without a given length, a is the distance to the next node. A mean represents the
    state at the mean step of its window. The last point is w_T itself.

    Attributes:
        start: the step of the first node.
    """

    def __init__(self, steps: Sequence[int], stop: int, window: int | None) -> None:
        """
        Args:
            steps: the steps of the nodes, strictly increasing.
            stop: T, the number of inner steps.
            window: the length a of every window in steps; None reaches the next node.
        """
        self.start = steps[0]
        self._stop = stop
        lengths = [window or following - step for step, following in pairwise([*steps, stop])]
        self._windows = [
            (max(self.start, step - length // 2), min(stop, step + length - length // 2))
            for step, length in zip(steps, lengths, strict=True)
        ]
        self._times = [0.5 * (first + last - 1) for first, last in self._windows]
        self._points: list[Tensor] = []
        self._first_open = 0
        self.next_step = self._windows[0][0]

    def visit(self, step: int, run: TrainingRun) -> None:
        point = run.path
        if step == self._stop:
            self._points.append(point.clone())
            self._times.append(float(step))
            return
        for node in range(self._first_open, len(self._windows)):
            first, last = self._windows[node]
            if first > step:
                break
            if first == step:
                self._points.append(point / (last - first))
            elif step < last:
                self._points[node].add_(point, alpha=1.0 / (last - first))
        while (
            self._first_open < len(self._windows) and self._windows[self._first_open][1] <= step + 1
        ):
            self._first_open += 1
        self.next_step = self._next(step + 1)

    def point(self, time: float, out: Tensor) -> None:
        """Writes the state interpolated at `time` (in steps) into `out`, shape (rows, P)."""
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

    @property
    def spans(self) -> list[tuple[int, int]]:
        """See SegmentedTrajectory.spans."""
        return [(self.start, self._stop)]

    def segments(self, run: TrainingRun) -> "Iterator[InterpolatedTrajectory]":
        """The whole trajectory as one segment; see SegmentedTrajectory.segments."""
        yield self

    def ends(self) -> tuple[Tensor, Tensor]:
        """The first and the last point."""
        return self._points[0], self._points[-1]

    def _next(self, step: int) -> int:
        """The first step at or after `step` that lies in a window, or T."""
        for first, last in self._windows[self._first_open :]:
            if step < last:
                return max(step, first)
        return self._stop
