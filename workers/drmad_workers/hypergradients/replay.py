"""The exact hypergradient, with the path computed a second time between kept snapshots.

[Griewank2000] Algorithm 799: revolve (checkpointing); one level of it is enough here.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from drmad_workers.hypergradients.base import Adjoint, Method, check_horizon, last_steps
from drmad_workers.training import Recorder, TrainingConfig, TrainingRun


@dataclass(frozen=True)
class Replay(Method):
    """ŵ_t = w_t for the last N steps: exact for N = T, truncated replay for N < T.

    The state (w, v) is kept about every √(2N) steps of the forward pass; on the way back each
    stretch is trained again from its snapshot and its weights are held while it is reversed.

    Cost: N Hessian-vector products and almost N gradients beyond the training.
    Memory: about 2 √(2N) copies of the weights; as many for each row of the state beside them
    that the reverse reads (of Adam, or where rates are tuned).

    Attributes:
        horizon: N; None for T.
    """

    horizon: int | None = None

    name: ClassVar[str] = "replay"

    def check(self, training: TrainingConfig) -> None:
        check_horizon(self.horizon, training.steps)

    def steps(self, training: TrainingConfig) -> range:
        return last_steps(self.horizon, training)

    def cost(self, training: TrainingConfig) -> float:
        return super().cost(training) + self.backward_total(training) / training.steps

    def copies(self, training: TrainingConfig) -> float:
        return 2.0 * math.sqrt(2 * self.backward_total(training))

    def recorder(self, run: TrainingRun) -> "Snapshots":
        return Snapshots(run.steps - (self.horizon or run.steps), run.steps)

    def backward(self, run: TrainingRun, recorder: Recorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, Snapshots)
        adjoint.begin(contraction=False)
        objective = run.objective
        rows = min(recorder.every, run.steps - recorder.start)
        path = torch.empty((rows, *run.point.shape), dtype=objective.dtype, device=objective.device)
        stop = run.steps
        while recorder.kept:
            start, state, buffers = recorder.kept.pop()
            run.state.copy_(state)
            objective.restore_buffers(buffers)
            run.repeat(start, stop, path)
            for step in range(stop - 1, start - 1, -1):
                run.point.copy_(path[step - start])
                adjoint.step_back(step)
            stop = start
        adjoint.finish(recorder.start)


class Snapshots:
    """(step, state, buffers) every so many steps from `start` on."""

    def __init__(self, start: int, steps: int) -> None:
        self.start = start
        self.every = max(1, round(math.sqrt(2 * (steps - start))))
        self.kept: list[tuple[int, Tensor, list[Tensor]]] = []
        self.next_step = start
        self._steps = steps

    def visit(self, step: int, run: TrainingRun) -> None:
        if step < self._steps:
            self.kept.append((step, run.state.clone(), run.objective.buffers()))
            self.next_step = step + self.every
