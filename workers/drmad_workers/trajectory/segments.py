"""The path of a training run in few bits, stretch by stretch backwards.

[Griewank2000] Algorithm 799: revolve (checkpointing), on which the halving is modelled.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from drmad_workers.training.run import TrainingRun
from drmad_workers.trajectory.quantized import BITS, QuantizedTrajectory, spacing

WIDE, DENSE = 6, 4
"""Steps from point to point: with more than WIDE the run is halved, until the first stretch has
DENSE at most."""


class SegmentedTrajectory:
    """The last stretch is coded as the training goes by, earlier ones as they are trained again.

    Each stretch but the first is half of what lies before the next, so that the density of the
    points doubles from one to the one before: towards the first steps, where a walk back has most
    growth behind it. Of the stretches to be trained again the state at their beginning is kept,
    in half precision. All of it stays within the copies given: the point last read, the
    snapshots, and points for the rest.

    Attributes:
        start: first step.
    """

    def __init__(self, start: int, stop: int, copies: int) -> None:
        """Of the steps `start` .. `stop`, in so many copies of the weights (at least 2)."""
        self._starts = segment_starts(start, stop, copies)
        self._stop, self._copies = stop, copies
        self.start = start
        self._snapshots: list[Snapshot] = []
        self._coded: QuantizedTrajectory | None = None
        self.next_step = start

    def visit(self, step: int, run: TrainingRun) -> None:
        if step < self._starts[-1]:
            self._snapshots.append(Snapshot(run))
            self.next_step = self._starts[len(self._snapshots)]
            return
        if self._coded is None:
            self._coded = self._begin(len(self._snapshots), run)
        else:
            self._coded.add(run.path)
        self.next_step = self._coded.next_step

    def back(self, run: TrainingRun) -> Iterator[QuantizedTrajectory]:
        """The stretches, the last one first. The run's state is used up."""
        assert self._coded is not None
        coded, self._coded = self._coded, None
        yield coded
        while self._snapshots:
            self._snapshots.pop().restore(run)
            earlier = len(self._snapshots)
            coded = self._begin(earlier, run)
            for step in range(self._starts[earlier], self._starts[earlier + 1]):
                run.take(step)
                run.monitor.advance(0)
                if step + 1 == coded.next_step:
                    coded.add(run.path)
            yield coded

    def _begin(self, earlier: int, run: TrainingRun) -> QuantizedTrajectory:
        """The stretch with so many before it."""
        start, stop = [*self._starts, self._stop][earlier : earlier + 2]
        return QuantizedTrajectory(start, stop, points_in(self._copies - 1 - earlier), run.path)


class Snapshot:
    """A state in half precision (each row by its largest entry), and the model's buffers."""

    def __init__(self, run: TrainingRun) -> None:
        tiny = torch.finfo(run.state.dtype).tiny
        self._scale = run.state.abs().amax(-1, keepdim=True).clamp_min_(tiny)
        self._state: Tensor = (run.state / self._scale).half()
        self._buffers = run.objective.buffers()

    def restore(self, run: TrainingRun) -> None:
        torch.mul(self._state, self._scale, out=run.state)
        run.objective.restore_buffers(self._buffers)


def points_in(copies: int) -> int:
    """So many coded points take the memory of so many copies of the weights in float32."""
    return max(1, int(copies * 32 / BITS))


def segment_starts(start: int, stop: int, copies: int) -> list[int]:
    """Where the stretches of the steps `start` .. `stop` begin."""
    points = points_in(copies - 1)
    starts = [stop]
    if spacing(stop - start, points) > WIDE:
        while spacing(starts[0] - start, points) > DENSE and len(starts) < copies - 1:
            starts.insert(0, start + (starts[0] - start) // 2)
    return [start, *starts[:-1]]
