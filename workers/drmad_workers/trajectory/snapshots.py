"""Snapshots of the training state, from which a segment of the run is computed again."""

import torch
from torch import Tensor

from drmad_workers.objective.parameters.cached_parts import parts_of
from drmad_workers.training.run import TrainingRun


class Snapshots:
    """Keeps (step, state) every `every` steps from `start` on, in full precision.

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
        self.kept: list[tuple[int, Tensor]] = []
        self.next_step = start
        self._steps = steps

    def visit(self, step: int, run: TrainingRun) -> None:
        if step < self._steps:
            self.kept.append((step, run.state.clone()))
            self.next_step = step + self.every


class HalfPrecisionSnapshot:
    """One state in half precision, with the carried values in full precision.

    Each row is scaled by its largest magnitude, so that no entry overflows. Both directions work
    part by part of the weights, see parts_of.
    """

    def __init__(self, run: TrainingRun) -> None:
        state = run.optimizer_state
        least, most = torch.aminmax(state, dim=-1, keepdim=True)
        tiny = torch.finfo(state.dtype).tiny
        self._scale = torch.maximum(-least, most).clamp_min_(tiny)
        self._state = torch.empty_like(state, dtype=torch.half)
        for part in parts_of(state):
            self._state[..., part] = state[..., part] / self._scale
        self._carried = run.objective.parameters.carried_flat.clone()

    def restore(self, run: TrainingRun) -> None:
        state = run.optimizer_state
        for part in parts_of(state):
            torch.mul(self._state[..., part], self._scale, out=state[..., part])
        run.objective.parameters.carried_flat.copy_(self._carried)
