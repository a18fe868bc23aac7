"""The exact hypergradient, with the path computed a second time between kept snapshots.

[Griewank2000] Algorithm 799: revolve (checkpointing); one level of it is enough here.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from drmad_workers.hypergradients.method import Adjoint, Method, check_horizon, last_steps
from drmad_workers.training.run import TrainingConfig, TrainingRun, TrajectoryRecorder


@dataclass(frozen=True)
class Replay(Method):
    """ŵ_t = w_t for the last N steps: exact for N = T, truncated replay for N < T.

    The state (w, v) is kept every so many steps of the forward pass; on the way back each stretch
    is trained again from its snapshot, and its points are held while it is reversed. Where memory
    allows (see `graphs_fit`) the graph of every gradient of the stretch is held too: then it is
    the first half of the Hessian-vector product, and not computed for it a second time.

    Cost: N gradients and N Hessian-vector products beyond the training; with graphs, N products.
    Memory: about 2 √(2N) copies of the weights, more for each row of the state beside them that
    the reverse reads (of Adam, or where rates are tuned); with graphs, 2 √(2N(1 + g)) copies,
    where g is a step's graph in copies of the weights.

    Attributes:
        horizon: N; None for T.
    """

    horizon: int | None = None

    name: ClassVar[str] = "replay"

    @property
    def lockstep(self) -> bool:
        return self.hvp == "exact"

    def check(self, training: TrainingConfig) -> None:
        check_horizon(self.horizon, training.steps)

    def steps(self, training: TrainingConfig) -> range:
        return last_steps(self.horizon, training)

    def cost(self, training: TrainingConfig) -> float:
        return super().cost(training) + self.backward_total(training) / training.steps

    def copies(self, training: TrainingConfig) -> float:
        return 2.0 * math.sqrt(2 * self.backward_total(training))

    def recorder(self, run: TrainingRun) -> "Snapshots":
        start = run.steps - (self.horizon or run.steps)
        length = run.steps - start
        state, point = run.state.nbytes, run.point.nbytes
        exact = self.hvp == "exact"
        graph = run.objective.graph_bytes(lambda: run.batch(0)) if exact else None
        graphs = graph is not None and graphs_fit(length, state, point, graph)
        held = point + graph if graph is not None and graphs else point
        return Snapshots(start, run.steps, max(1, round(math.sqrt(length * state / held))), graphs)

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, Snapshots)
        adjoint.begin(contraction=False)
        path = run.point.new_empty(0 if recorder.graphs else recorder.every, *run.point.shape)
        stop = run.steps
        while recorder.kept:
            start, state, buffers = recorder.kept.pop()
            run.state.copy_(state)
            run.objective.restore_buffers(buffers)
            if recorder.graphs:
                points = run.linearize(start, stop)
                for step in range(stop - 1, start - 1, -1):
                    point, at = points.pop()
                    run.point.copy_(point)
                    adjoint.step_back(step, at=at)
            else:
                run.repeat(start, stop, path)
                for step in range(stop - 1, start - 1, -1):
                    run.point.copy_(path[step - start])
                    adjoint.step_back(step)
            stop = start
        adjoint.finish(recorder.start)


GRAPH_BYTES = 2**28
"""Replay keeps graphs whenever they and the snapshots stay below this (256 MiB)."""


def graphs_fit(length: int, state: int, point: int, graph: int) -> bool:
    """Whether graphs leave the memory of `length` steps below GRAPH_BYTES, or at most double it.

    The sizes of a snapshot, of a point and of a step's graph are in bytes. At the best distance of
    the snapshots, n snapshots of a bytes and stretches of length/n steps of b bytes take
    2 √(length a b) bytes.
    """
    total = 2.0 * math.sqrt(length * state * (point + graph))
    return total <= max(GRAPH_BYTES, 4.0 * math.sqrt(length * state * point))


class Snapshots:
    """(step, state, buffers) every so many steps from `start` on."""

    def __init__(self, start: int, steps: int, every: int, graphs: bool) -> None:
        """`graphs`: whether a stretch is walked with the graphs of its gradients."""
        self.start = start
        self.every = every
        self.graphs = graphs
        self.kept: list[tuple[int, Tensor, list[Tensor]]] = []
        self.next_step = start
        self._steps = steps

    def visit(self, step: int, run: TrainingRun) -> None:
        if step < self._steps:
            self.kept.append((step, run.state.clone(), run.objective.buffers()))
            self.next_step = step + self.every
