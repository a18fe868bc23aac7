"""A quantized trajectory in segments, of which the earlier ones are trained again.

[Griewank2000] Algorithm 799: revolve (checkpointing), the model of the bisection used here.
"""

from collections.abc import Iterator
from itertools import pairwise

from drmad_workers.training.run import TrainingRun
from drmad_workers.trajectory.quantized import BITS, QuantizedTrajectory, spacing
from drmad_workers.trajectory.snapshots import HalfPrecisionSnapshot

WIDE, DENSE = 6, 4
"""Distances of consecutive points in steps. A run with a distance above WIDE is bisected until the
first segment has a distance of at most DENSE."""


class SegmentedTrajectory:
    """Quantizes the last segment during training, and earlier ones while they are trained again.

    Each segment except the first covers the second half of the steps before the next segment.
    Towards the first steps the points therefore become denser, where errors are amplified by the
    growth of the adjoint over all later steps. The state at the start of each segment that is
    trained again is kept in half precision. Everything together fits in the given number of copies
    of the weights: the point that was read last, the snapshots, and quantized points in the rest.

    Attributes:
        start: the first step.
    """

    def __init__(self, start: int, stop: int, copies: int) -> None:
        """Covers the steps `start` .. `stop` in `copies` copies of the weights, at least 2."""
        self._starts = segment_starts(start, stop, copies)
        self._stop, self._copies = stop, copies
        self.start = start
        self._snapshots: list[HalfPrecisionSnapshot] = []
        self._segment: QuantizedTrajectory | None = None
        self.next_step = start

    def visit(self, step: int, run: TrainingRun) -> None:
        if step < self._starts[-1]:
            self._snapshots.append(HalfPrecisionSnapshot(run))
            self.next_step = self._starts[len(self._snapshots)]
            return
        if self._segment is None:
            self._segment = self._begin(len(self._snapshots), run)
        else:
            self._segment.add(run.path)
        self.next_step = self._segment.next_step

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The first and the stop step of each segment, the last segment first."""
        return list(pairwise([*self._starts, self._stop]))[::-1]

    def segments(self, run: TrainingRun) -> Iterator[QuantizedTrajectory]:
        """The segments, the last one first; overwrites the state of the run."""
        assert self._segment is not None
        segment, self._segment = self._segment, None
        yield segment
        while self._snapshots:
            segment.free()  # the reader still has it
            self._snapshots.pop().restore(run)
            earlier = len(self._snapshots)
            segment = self._begin(earlier, run)
            for step in range(self._starts[earlier], self._starts[earlier + 1]):
                run.take(step)
                run.monitor.advance(0)
                if step + 1 == segment.next_step:
                    segment.add(run.path)
            yield segment

    def _begin(self, earlier: int, run: TrainingRun) -> QuantizedTrajectory:
        """An empty segment at the run's current state, with `earlier` segments before it."""
        start, stop = [*self._starts, self._stop][earlier : earlier + 2]
        return QuantizedTrajectory(start, stop, points_in(self._copies - 1 - earlier), run.path)


def points_in(copies: int) -> int:
    """The number of quantized points that fit in `copies` copies of the weights in float32."""
    return max(1, int(copies * 32 / BITS))


def segment_starts(start: int, stop: int, copies: int) -> list[int]:
    """The first step of each segment of `start` .. `stop`, in ascending order."""
    points = points_in(copies - 1)
    starts = [stop]
    if spacing(stop - start, points) > WIDE:
        while spacing(starts[0] - start, points) > DENSE and len(starts) < copies - 1:
            starts.insert(0, start + (starts[0] - start) // 2)
    return [start, *starts[:-1]]
