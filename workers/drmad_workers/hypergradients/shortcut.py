"""DrMAD: reverse mode along an approximate trajectory through a few recorded points.

[Fu2016] DrMAD: distilling reverse-mode automatic differentiation for optimizing hyperparameters
of deep neural networks, 1601.00917.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from drmad_client.spec import bounds, defaults, refusals
from drmad_workers.data.pass_order import Order
from drmad_workers.errors import ProblemError, require_bounds
from drmad_workers.hypergradients.method import (
    PRODUCT,
    Adjoint,
    Curvature,
    Method,
    check_horizon,
    last_steps,
    require_none,
)
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.objective.autograd.graph_memory import step_graph_bytes
from drmad_workers.objective.parameters.cached_parts import PART
from drmad_workers.objective.products.gauss_newton import require_outputs
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.optimizers import MomentumSGD
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder
from drmad_workers.trajectory.interpolation import InterpolatedTrajectory, node_steps
from drmad_workers.trajectory.quantized import BITS, QuantizedTrajectory
from drmad_workers.trajectory.segments import SegmentedTrajectory, segment_starts

Preset = Literal["paper", "paper_tenth"]

CONVOLUTION_SUBSAMPLING = 6
"""The default minibatch subsampling of models with convolutions, where a Hessian-vector product
costs 2.7 gradients instead of 2 (measured on a CPU, on a small network)."""


LEAST_COPIES = 2
"""The least copies of the weights for a trajectory: the point read last, and quantized ones."""


@dataclass(frozen=True)
class Shortcut(Method):
    """Linearizes at points ŵ_t of a piecewise linear approximation of the trajectory.

    The trajectory of the last N steps is kept in a few copies of the weights, in one of two forms:

    - Quantized points (the default) take about 2.5 bits a weight (QuantizedTrajectory) and are as
      dense as `budget` allows. If that leaves fewer than one point in 6 steps (16 copies beyond
      T = 1,152), the run is split into segments. The earlier segments are trained again during the
      backward pass, with points of their own that are denser the earlier the segment
      (SegmentedTrajectory).
    - Interpolation nodes hold weights in full precision, or their means (InterpolatedTrajectory).
      With `interpolation_nodes` = K, node j = 0 .. K-1 is at step T-N + N(1-(1-j/K)²), dense
      towards the end. A mean covers a window around the node and averages the noise out. By
      default the window reaches the next node, so that almost every step contributes. K = 1
      without a mean is DrMAD, ŵ_t = (1-β_t) w_{T-N} + β_t w_T [Fu2016]. K = N nodes at stride 1
      are the exact trajectory. Under Adam the budget holds nodes instead of quantized points,
      because coarse quantization does not keep its second moments positive.

    A stride reverses m steps at once. It joins their minibatches, linearizes at the middle of the
    interval, and applies the map of m steps under a constant gradient. The map is accurate while
    the curvature changes dw little. The length of the next stride is therefore the largest one for
    which |Δdw| / |dw| <= `max_adjoint_change`, extrapolated from the last stride: long where the
    trajectory is calm, single steps where dw changes quickly.

    In the first half of the training, minibatch subsampling may use only every
    `minibatch_subsampling`-th minibatch, which costs less and is less accurate. A stride shorter
    than that applies its own share of the curvature to dw, and all of it to dλ. Derivatives by
    example are rescaled to the number of times that each example was drawn (SubsampledRows). A
    momentum that is tuned per step requires single steps throughout, because its derivatives are
    products with the velocity of each step.

    The moments of Adam are kept and interpolated like the weights. The velocity of SGD, which is
    needed where the rates are tuned, follows from the points: (ŵ_{t+m} - ŵ_t)/Σα.

    Cost: N/m Hessian-vector products, each on the rows of m minibatches, and N/2 steps of training
    if segments are trained again.
    Memory: `budget` copies of the weights, or K + 1 (three times as many for Adam), independent of
    T.

    Attributes:
        horizon: N; None for T.
        budget: bounds the memory in copies of the weights, at least 2; under Adam in copies of its
            state. Where the weights are large (LARGE_BYTES) it bounds all that a backward pass
            holds beside training and the trained model, and points, segments and strides are
            chosen for it; see `exceeded`. Elsewhere it bounds the quantized trajectory with its
            snapshots, or the nodes with the last state.
        interpolation_nodes: K, at least 1; None for quantized points, and for `budget` - 1 nodes
            under Adam.
        averaging_window: the length of a node's window in steps. 1 keeps the weights themselves;
            None reaches the next node.
        max_stride: the largest m, at least 1.
        max_adjoint_change: the bound on |Δdw| / |dw| per stride; None takes every stride in full.
        minibatch_subsampling: 1 uses every minibatch. None is 1, or CONVOLUTION_SUBSAMPLING if the
            model has convolutions, no momentum is tuned per step, and no hyperparameter has a value
            for every training row; `cost` assumes 1.
        contraction: limits the growth of |dw| to 1 % per step, see Adjoint.begin. It keeps a
            backward pass far from the trajectory bounded, and biases one whose true |dw| grows.
        curvature: "gauss_newton" omits the curvature of the model and keeps that of the loss in
            the model's outputs. It is positive semidefinite if the loss is convex in the outputs,
            so that dw does not grow; see gauss_newton_product.
        preset: the published method; all other settings keep their defaults. "paper" takes N = T
            points with β from 0.001 to 0.999. "paper_tenth" takes N = T/10 such points over the
            whole line, with the first N minibatches and an unscaled learning rate.
    """

    horizon: int | None = None
    budget: int = defaults.Shortcut.budget
    interpolation_nodes: int | None = None
    averaging_window: int | None = None
    max_stride: int = defaults.Shortcut.max_stride
    max_adjoint_change: float | None = defaults.Shortcut.max_adjoint_change
    minibatch_subsampling: int | None = None
    contraction: bool = defaults.Shortcut.contraction
    curvature: Curvature = defaults.Shortcut.curvature
    preset: Preset | None = None

    name: ClassVar[str] = "shortcut"

    @property
    def lockstep(self) -> bool:
        free = self.preset is None and (self._is_adaptive or self.curvature != "hessian")
        return self.hvp == "exact" and not free

    @property
    def _is_adaptive(self) -> bool:
        return self.max_adjoint_change is not None and self.max_stride > 1

    def check(self, training: TrainingConfig) -> None:
        check_horizon(self.horizon, training.steps)
        require_bounds(self, bounds.Shortcut, "hypergradient")
        if self.curvature not in get_args(Curvature):
            raise ProblemError(
                f"curvature must be hessian or gauss_newton, got {self.curvature!r}",
                "hypergradient.curvature",
            )
        if self.preset not in (None, "paper", "paper_tenth"):
            raise ProblemError(
                f"preset must be paper or paper_tenth, got {self.preset!r}", "hypergradient.preset"
            )
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        require_none(refusals.preset_refusals(self.preset, changed))
        require_none(refusals.shortcut_refusals(self, training.steps))

    def refusals_beside(self, bound: Iterable[BoundHyperparameter]) -> Iterable[refusals.Refusal]:
        rates = (each for each in bound if isinstance(each, BoundRate))
        if any(rate.role == "momentum" and rate.layout[1] > 1 for rate in rates):
            yield from refusals.single_step_refusals(self)

    def steps(self, training: TrainingConfig) -> range:
        if self.preset == "paper_tenth":
            return range(max(1, training.steps // 10))
        return last_steps(self.horizon, training)

    def recorder(self, run: TrainingRun) -> "InterpolatedTrajectory | SegmentedTrajectory":
        if self.preset is not None:
            return InterpolatedTrajectory([0], run.steps, window=1)
        if self.curvature == "gauss_newton":
            require_outputs(run.objective.problem)
        start = run.steps - (self.horizon or run.steps)
        within = self._within(run)
        nodes = within._nodes(run.dynamics.path_rows)
        if nodes is not None:
            return InterpolatedTrajectory(
                node_steps(start, run.steps, nodes), run.steps, self.averaging_window
            )
        return SegmentedTrajectory(start, run.steps, within.budget)

    def cost(self, training: TrainingConfig) -> float:
        used = len(self.steps(training))
        if self.preset is None:
            early = max(0, training.steps // 2 - self.steps(training).start)
            used -= early - math.ceil(early / (self.minibatch_subsampling or 1))
        return 1.0 + (self._retrained_steps(training) + PRODUCT * used) / training.steps

    def copies(self, training: TrainingConfig) -> float:
        return self._copies(self.backward_total(training), training.path_rows)

    def trajectory_bytes(self, run: TrainingRun, training: TrainingConfig) -> int:
        return round(self._within(run).copies(training) * run.path.nbytes)

    def exceeded(self, run: TrainingRun) -> list[str]:
        if not self._is_bounded(run):
            return []
        copy, least = run.path.nbytes, self._least_copies(run)
        if least <= self.budget:
            return []
        return [
            f"hypergradient.budget is {self.budget} copies ({self.budget * copy >> 20} MiB), and "
            f"the backward pass needs at least {least} ({least * copy >> 20} MiB), which it will "
            f"take: set budget to {least} or more, or take smaller minibatches"
        ]

    def _is_bounded(self, run: TrainingRun) -> bool:
        """Whether the budget bounds the whole backward pass, not the trajectory alone."""
        is_stated = self.preset is not None or self.interpolation_nodes is not None
        return not is_stated and run.objective.parameters.are_large

    def _least_copies(self, run: TrainingRun) -> int:
        return LEAST_COPIES + math.ceil(self._working_bytes(run) / run.path.nbytes)

    def _working_bytes(self, run: TrainingRun) -> int:
        """What a backward pass with strides of one step holds beside the trajectory.

        These are the adjoint, its last value where strides adapt, the gradient or velocities where
        the reverse of a step reads them, the derivative by the largest parameter with the two parts
        that autograd adds to it, the graphs of a product, and the parts of the weights that
        elementwise operations work on.
        """
        parameters = run.objective.parameters
        largest = max(part.nbytes for part in parameters.parts(parameters.weights))
        copies = int(self._is_adaptive)
        if run.reads_gradient:
            copies += 4 if run.dynamics.path_rows == 1 else 1
        parts = PART * parameters.weights.itemsize * 4
        if run.dynamics.path_rows > 1:  # a stride holds the state before each of its steps
            parts *= self.max_stride
        held = run.state.nbytes + copies * parameters.weights.nbytes + parts
        return held + 3 * largest + self._graph_bytes(run)

    def _graph_bytes(self, run: TrainingRun) -> int:
        """The graph of a step's gradient, and as much for the derivatives by its values."""
        graph = step_graph_bytes(run.objective.inner, lambda: run.batch(0))
        return 2 * int(run.objective.workers.largest(graph))

    def _within(self, run: TrainingRun) -> "Shortcut":
        """These settings, with the budget and the strides that leave room for the backward pass.

        The trajectory has the room first. A stride needs the graphs of as many steps.
        """
        if not self._is_bounded(run):
            return self
        copy = run.path.nbytes
        left = max(self.budget, self._least_copies(run)) * copy - self._working_bytes(run)
        within = replace(self, budget=left // copy)
        taken = within._copies(self.horizon or run.steps, run.dynamics.path_rows) * copy
        stride = 1 + max(0.0, left - taken) // max(1, self._graph_bytes(run))
        return replace(within, max_stride=min(self.max_stride, int(stride)))

    def _copies(self, steps: int, path_rows: int) -> float:
        """`copies` for so many steps."""
        nodes = 1 if self.preset else self._nodes(path_rows)
        if nodes is not None:
            return min(nodes, steps) + 1.0
        return min(float(self.budget), 1.0 + BITS / 32.0 * math.ceil(steps / 3))

    def _nodes(self, path_rows: int) -> int | None:
        under_adam = path_rows > 1
        if under_adam and self.interpolation_nodes is None:
            return self.budget - 1
        return self.interpolation_nodes

    def _retrained_steps(self, training: TrainingConfig) -> int:
        """The number of steps that are trained again during the backward pass."""
        if self.preset is not None or self._nodes(training.path_rows) is not None:
            return 0
        steps = self.steps(training)
        return segment_starts(steps.start, steps.stop, self.budget)[-1] - steps.start

    def order(self, run: TrainingRun, recorder: TrajectoryRecorder) -> Order:
        assert isinstance(recorder, InterpolatedTrajectory | SegmentedTrajectory)
        if self.preset is not None:
            return run.order(range(self._published_points(run) - 1, -1, -1))
        subsampling = self._subsampling(run, recorder.start)
        return self._within(run)._order(run, recorder.spans, run.steps, subsampling)

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, InterpolatedTrajectory | SegmentedTrajectory)
        if self.preset is not None:
            assert isinstance(recorder, InterpolatedTrajectory)
            self._backward_as_published(run, recorder, adjoint, self._published_points(run))
        else:
            self._within(run)._backward(run, recorder, adjoint)

    def _backward(
        self,
        run: TrainingRun,
        recorder: InterpolatedTrajectory | SegmentedTrajectory,
        adjoint: Adjoint,
    ) -> None:
        single = run.dynamics.momentum.tuned_per_step
        most_change = self.max_adjoint_change if self._is_adaptive and not single else None
        adaptive = most_change is not None
        adjoint.begin(self.contraction, self.curvature, adaptive, off_path=True)
        subsampling = self._subsampling(run, recorder.start)
        rows = SubsampledRows(run) if subsampling > 1 else None
        spans, aligned = recorder.spans, subsampling == 1
        stop = run.steps
        stride = 1 if adaptive or single else self.max_stride
        for segment in recorder.segments(run):
            while stop > segment.start:
                every = subsampling if stop <= run.steps // 2 else 1
                if every > 1 and not aligned:
                    aligned = True
                    left = [span for span in spans if span[0] < stop]
                    run.expect(self._order(run, left, stop, subsampling))
                start = max(segment.start, stop - every * math.ceil(stride / every))
                count = stop - start
                velocity = place_at_midpoint(segment, start, stop, run)
                share = min(1.0, stride / count)
                adjoint.step_back(start, count, velocity, None, every, share)
                if rows is not None:
                    rows.add(start, count, every)
                if most_change is not None:
                    allowed = stride * most_change / max(adjoint.change, 1e-9)
                    stride = max(1, min(self.max_stride, 2 * stride, int(allowed)))
                stop = start
        if rows is not None:
            rows.rescale()
        adjoint.finish(recorder.start)

    def _published_points(self, run: TrainingRun) -> int:
        return run.steps if self.preset == "paper" else max(1, run.steps // 10)

    def _subsampling(self, run: TrainingRun, start: int) -> int:
        """Uses the first of so many minibatches in the first half of the training."""
        if run.dynamics.momentum.tuned_per_step or start >= run.steps // 2:
            return 1
        objective = run.objective
        # What belongs to single rows would lose most of its visits.
        is_dear = has_convolutions(objective.parameters.model) and not objective.values.row_names
        return self.minibatch_subsampling or (CONVOLUTION_SUBSAMPLING if is_dear else 1)

    def _order(
        self, run: TrainingRun, spans: Sequence[tuple[int, int]], stop: int, subsampling: int
    ) -> Order:
        """The minibatches from `stop` backwards, through the spans of the segments.

        Strides decide where subsampling begins, so that this must be stated again there.
        """

        def steps() -> Iterator[int]:
            for start, end in spans:
                if end < stop:  # an earlier segment is first trained again
                    yield from range(start, end)
                step = min(stop, end)
                while step > start:
                    step = max(start, step - (subsampling if step <= run.steps // 2 else 1))
                    yield step

        return run.order(steps(), self.max_stride)

    def _backward_as_published(
        self, run: TrainingRun, recorder: InterpolatedTrajectory, adjoint: Adjoint, points: int
    ) -> None:
        adjoint.begin(contraction=False, off_path=True)
        first, last = recorder.ends()
        betas = torch.linspace(0.001, 0.999, points, dtype=torch.float64).tolist()
        for step in range(points - 1, -1, -1):
            torch.lerp(first, last, betas[step], out=run.path)
            velocity = None
            if isinstance(run.dynamics, MomentumSGD) and run.dynamics.reads_gradient:
                # As published, one velocity serves both sides of the step. At step 0, where the
                # index of the original implementation wraps around, the line is extrapolated.
                share = betas[max(step, 1)] - betas[max(step, 1) - 1] if points > 1 else 1.0
                moved = (last - first)[0][: run.optimizer_state.shape[-1]]
                velocity = run.dynamics.velocity(step, 1, share * moved)
                run.optimizer_state[1].copy_(velocity)
            adjoint.step_back(step, velocity_after=velocity)
        adjoint.finish(0)


class SubsampledRows:
    """Rescales derivatives by example to the number of times that each example was drawn.

    Under minibatch subsampling, a minibatch that is used represents several. By chance some
    examples then count more often than they were drawn. `rescale` multiplies their parts of dλ by
    the ratio of the two counts.
    """

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        sums = run.objective.sums
        self._drawn, self._counted = sums.zeros_per_row(), sums.zeros_per_row()

    def add(self, step: int, count: int, every: int) -> None:
        """Counts the examples of the steps `step` .. `step + count - 1`; see Minibatches.join."""
        for counts, subsampling in ((self._drawn, 1), (self._counted, every)):
            if counts is not None:
                index = self._run.index(step, count, subsampling)
                represented = count / math.ceil(count / subsampling)
                each = torch.full_like(index, represented, dtype=counts.dtype)
                counts.scatter_add_(-1, index, each)

    def rescale(self) -> None:
        if self._drawn is not None and self._counted is not None:
            self._run.objective.sums.multiply_rows(self._drawn / self._counted.clamp_min(1.0))


def has_convolutions(model: nn.Module) -> bool:
    return any(isinstance(module, _ConvNd) for module in model.modules())


def place_at_midpoint(
    segment: InterpolatedTrajectory | QuantizedTrajectory, start: int, stop: int, run: TrainingRun
) -> Tensor | None:
    """Places the run at the middle of the steps `start` .. `stop - 1`.

    Where the rates are tuned, the function returns the velocity between `start` and `stop`, shape
    (P,). For a tuned momentum it also writes the velocity of the previous step into the state,
    which is 0 before the first step.
    """
    dynamics, middle = run.dynamics, 0.5 * (start + stop - 1)
    if not (isinstance(dynamics, MomentumSGD) and dynamics.reads_gradient):
        segment.point(middle, run.path)
        return None
    first, last = torch.empty_like(run.path), torch.empty_like(run.path)
    velocity_before = run.optimizer_state[1]
    size = velocity_before.shape[-1]
    segment.point(stop, last)
    segment.point(middle, run.path)
    segment.point(start, first)
    velocity = dynamics.velocity(start, stop - start, (last - first)[0][..., :size])
    if dynamics.momentum.total is None:
        return velocity
    if start == 0:
        velocity_before.zero_()
    elif start == segment.start:
        velocity_before.copy_(velocity)
    else:
        segment.point(start - 1, last)
        velocity_before.copy_(dynamics.velocity(start - 1, 1, (first - last)[0][..., :size]))
    return velocity
