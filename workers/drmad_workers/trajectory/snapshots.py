"""Snapshots of the training state, from which a segment of the run is computed again."""

import torch
from torch import Tensor

from drmad_workers.training.run import TrainingRun


class Snapshots:
    """Keeps (step, state, buffers) every `every` steps from `start` on, in full precision.

    Attributes:
        start: the first step that is differentiated.
        every: the distance of two snapshots in steps, which is the length of a segment.
        graphs: whether a segment is recomputed with the graphs of its gradients.
        kept: the snapshots, in ascending order of their steps.
    """

    def __init__(self, start: int, steps: int, every: int, graphs: bool) -> None:
        self.start = start
        self.every = every
        self.graphs = graphs
        self.kept: list[tuple[int, Tensor, list[Tensor]]] = []
        self.next_step = start
        self._steps = steps

    def visit(self, step: int, run: TrainingRun) -> None:
        if step < self._steps:
            self.kept.append((step, run.state.clone(), run.objective.parameters.buffers.save()))
            self.next_step = step + self.every


class HalfPrecisionSnapshot:
    """One state in half precision, with the buffers of the model.

    Each row is scaled by its largest magnitude, so that no entry overflows.
    """

    def __init__(self, run: TrainingRun) -> None:
        tiny = torch.finfo(run.state.dtype).tiny
        self._scale = run.state.abs().amax(-1, keepdim=True).clamp_min_(tiny)
        self._state: Tensor = (run.state / self._scale).half()
        self._buffers = run.objective.parameters.buffers.save()

    def restore(self, run: TrainingRun) -> None:
        torch.mul(self._state, self._scale, out=run.state)
        run.objective.parameters.buffers.restore(self._buffers)
