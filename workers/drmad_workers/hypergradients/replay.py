"""The exact hypergradient along a trajectory that is recomputed between snapshots.

[Griewank2000] Algorithm 799: revolve (checkpointing), of which one level suffices here.
"""

import math
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import ClassVar, NamedTuple

from drmad_workers.data.pass_order import Order
from drmad_workers.hypergradients.method import Adjoint
from drmad_workers.hypergradients.truncation import TruncatedMethod
from drmad_workers.objective.autograd.graph_memory import graph_bytes
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder
from drmad_workers.trajectory.snapshots import Snapshots

GRAPH_BYTES = 2**28
"""Bounds the bytes of graphs and snapshots below which graphs are always held (256 MiB)."""
TRACED_BYTES = 2**19
"""Bounds the graph of a step below which traces cost less than graphs, in bytes. On one thread of a
CPU a replay by traces took 0.73 of one by graphs at 0.3 MB (an MLP with hidden layers of 100 at 50
rows), 0.82 at 0.4 MB, and 0.98 at 0.9 MB."""


class Segments(NamedTuple):
    """How a trajectory is divided.

    Attributes:
        length: the steps of a segment.
        graphs: whether a segment holds the graphs of its gradients.
        bytes: those of all snapshots and of one segment.
    """

    length: int
    graphs: bool
    bytes: int


@dataclass(frozen=True)
class Replay(TruncatedMethod):
    """Linearizes at ŵ_t = w_t of the last N steps, recomputed from snapshots [Griewank2000].

    The forward pass keeps the state (w, v) at equal distances. The backward pass trains each
    segment again from its snapshot, holds the points of the segment, and runs the adjoint recursion
    of hypergradients/method.py over them. The result is exact for N = T and truncated for N < T.

    Where memory allows (see `graphs_fit`), the segment also holds the graph of every gradient. The
    graph is the first half of the Hessian-vector product, which then costs one backward pass less.
    Small models whose gradients and products are traced hold no graphs: they take less time so.

    Cost: N gradients and N Hessian-vector products in addition to the training; with graphs the
    N products alone.
    Memory: about 2 √(2N) copies of the weights, and more for each further row of the state that
    the reverse reads (the moments of Adam; the velocity where the rates are tuned). With graphs it
    is 2 √(2N(1 + g)) copies, where g is the size of the graph of a step in copies of the weights.

    Attributes:
        horizon: N; None for T.
    """

    name: ClassVar[str] = "replay"

    def cost(self, training: TrainingConfig) -> float:
        return super().cost(training) + self.backward_total(training) / training.steps

    def copies(self, training: TrainingConfig) -> float:
        return 2.0 * math.sqrt(2 * self.backward_total(training))

    def trajectory_bytes(self, run: TrainingRun, training: TrainingConfig) -> int:
        return self._segments(run, self.backward_total(training)).bytes

    def recorder(self, run: TrainingRun) -> Snapshots:
        start = run.steps - (self.horizon or run.steps)
        segments = self._segments(run, run.steps - start)
        return Snapshots(start, run.steps, segments.length, segments.graphs)

    def _segments(self, run: TrainingRun, length: int) -> Segments:
        """The segments of the last `length` steps."""
        state, point = run.state.nbytes, run.point.nbytes
        # The graphs of accumulated gradients would take the memory that accumulation spares.
        exact = self.hvp == "exact" and run.accumulate == 1
        graph = self._graph_bytes(run) if exact else None
        graphs = (
            graph is not None
            and graphs_fit(length, state, point, graph)
            and not (graph <= TRACED_BYTES and is_traced(run))
        )
        held = point + graph if graph is not None and graphs else point
        each = max(1, round(math.sqrt(length * state / held)))
        return Segments(each, graphs, math.ceil(length / each) * state + min(each, length) * held)

    def _graph_bytes(self, run: TrainingRun) -> int | None:
        """The largest of the workers' graphs of a step; None if one of them can hold none."""
        found = graph_bytes(run.objective.inner, lambda: run.batch(0))
        if found is not None and run.objective.parameters.are_large and not run.reads_gradient:
            found = max(0, found - run.gradient.nbytes)  # see TrainingRun.linearize
        largest = run.objective.workers.largest(math.inf if found is None else found)
        return None if largest == math.inf else int(largest)

    def order(self, run: TrainingRun, recorder: TrajectoryRecorder) -> Order:
        assert isinstance(recorder, Snapshots)
        starts = [step for step, _ in recorder.kept]
        segments = list(pairwise([*starts, run.steps]))[::-1]
        if recorder.graphs:
            return run.order(chain(*(range(*segment) for segment in segments)))
        steps = ((range(i, j - 1), range(j - 1, i - 1, -1)) for i, j in segments)
        return run.order(chain.from_iterable(chain.from_iterable(steps)))

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, Snapshots)
        adjoint.begin(contraction=False)
        points = run.point.new_empty(0 if recorder.graphs else recorder.every, *run.point.shape)
        stop = run.steps
        while recorder.kept:
            start, state = recorder.kept.pop()
            run.state.copy_(state)
            if recorder.graphs:
                linearized = run.linearize(start, stop)
                for step in range(stop - 1, start - 1, -1):
                    point, at = linearized.pop()
                    run.point.copy_(point)
                    adjoint.step_back(step, at=at)
            else:
                run.repeat(start, stop, points)
                for step in range(stop - 1, start - 1, -1):
                    run.point.copy_(points[step - start])
                    adjoint.step_back(step)
            stop = start
        adjoint.finish(recorder.start)


def is_traced(run: TrainingRun) -> bool:
    """Whether the gradients and the products of a backward pass are traced."""
    separate = not run.dynamics.reads_gradient_at(None)
    return separate and run.objective.inner.is_traced(run.batch(0))


def graphs_fit(length: int, state: int, point: int, graph: int) -> bool:
    """Whether graphs keep the memory of `length` steps below GRAPH_BYTES, or at most double it.

    n snapshots of a bytes and segments of length/n steps of b bytes take 2 √(length a b) bytes at
    the best n.

    Args:
        length: the number of differentiated steps.
        state, point, graph: the bytes of a snapshot, of a point, and of the graph of a step.
    """
    total = 2.0 * math.sqrt(length * state * (point + graph))
    return total <= max(GRAPH_BYTES, 4.0 * math.sqrt(length * state * point))
