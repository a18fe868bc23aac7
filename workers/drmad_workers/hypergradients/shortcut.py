"""DrMAD: the backward pass walks a line through kept points in the place of the path.

[Fu2016] DrMAD: distilling reverse-mode automatic differentiation for optimizing hyperparameters
of deep neural networks, 1601.00917.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError
from drmad_workers.hypergradients.method import (
    PRODUCT,
    Adjoint,
    Curvature,
    Method,
    check_horizon,
    last_steps,
)
from drmad_workers.training.optimizers import Adam, MomentumSGD
from drmad_workers.training.run import TrainingConfig, TrainingRun, TrajectoryRecorder
from drmad_workers.trajectory.interpolation import InterpolatedTrajectory, node_steps
from drmad_workers.trajectory.quantized import BITS, QuantizedTrajectory
from drmad_workers.trajectory.segments import SegmentedTrajectory, segment_starts

Preset = Literal["paper", "paper_tenth"]

NODES_FOR_ADAM = 15

CONVOLUTION_SUBSAMPLING = 6
"""A product costs 2.7 gradients there, in the place of 2 (on a CPU, of a small net)."""


@dataclass(frozen=True)
class Shortcut(Method):
    """ŵ_t on a polyline through points of the last N steps, kept in a few copies of the weights.

    By default the points are quantized to 2.5 bits a weight (QuantizedTrajectory) and as dense as
    `budget` allows. Where that leaves fewer than one point in 6 steps (16 copies beyond T = 1,152),
    the run is split into segments: the earlier ones are trained again during the backward pass,
    with points of their own, denser the earlier the segment (SegmentedTrajectory).

    With `interpolation_nodes` = K the points are weights in full precision, or their means. Node
    j = 0 .. K-1 stands at step T-N + N(1-(1-j/K)²), dense towards the end. It holds the mean over a
    window around its step, which averages the noise out; by default the window reaches the next
    node, so that almost every step counts. K = 1 without a mean is DrMAD,
    ŵ_t = (1-β_t) w_{T-N} + β_t w_T; K = N nodes at stride 1 stand at every step, which is exact.
    Adam uses 15 nodes by default, because coarse quantization does not keep its second moments
    positive.

    A stride reverses m steps at once: their minibatches are joined, at the middle of the interval,
    by the map of m steps under a constant gradient. That map holds while the curvature changes dw
    little, so the next stride is as long as |Δdw| / |dw| <= `max_adjoint_change` allows, judged by
    the last one: long where the trajectory is calm, single steps where dw would be stretched.

    In the first half of the training, every `minibatch_subsampling`-th minibatch may stand for all
    of them, which costs less and loses some of the direction. A stride shorter than that moves dw
    by its own share of the curvature, and dλ by all of it. Derivatives by example are scaled to how
    often each example was drawn (SubsampledRows). A momentum that is tuned per step forces single
    steps throughout, because its derivatives are products with the velocity of each step.

    Adam's moments are kept and interpolated like the weights. The velocity of SGD, which matters
    where the rates are tuned, follows from the points: (ŵ_{t+m} - ŵ_t)/Σα.

    Cost: N/m Hessian-vector products, each on the rows of m minibatches; N/2 steps of training
    where segments are trained again.
    Memory: `budget` copies of the weights, or K + 1 (for Adam three times as many), whatever T.

    Attributes:
        horizon: N; None for T.
        budget: copies of the weights for the quantized trajectory and its snapshots, at least 2.
        interpolation_nodes: K, at least 1; None for quantized points.
        averaging_window: length of a node's window in steps; 1 takes the weights as they are, None
            reaches the next node.
        max_stride: the largest m, at least 1.
        max_adjoint_change: bound on |Δdw| / |dw| per stride; None takes every stride in full.
        minibatch_subsampling: 1 visits every minibatch. None is 1, or CONVOLUTION_SUBSAMPLING where
            the model has convolutions; `cost` counts 1.
        contraction: |dw| grows by at most 1 % per step on the way back, see Adjoint.begin. It
            holds a walk far off the path together, and bends one whose true |dw| grows.
        curvature: "gauss_newton" leaves out the curvature of the model, and keeps that of the loss
            in the model's outputs: positive where that is convex, so that dw is not stretched;
            see Objective.gauss_newton_product.
        preset: the published method, all else left at its default. "paper": N = T points with
            β from 0.001 to 0.999. "paper_tenth": N = T/10 such points over the whole line, with
            the first N minibatches and an unscaled learning rate.
    """

    horizon: int | None = None
    budget: int = 16
    interpolation_nodes: int | None = None
    averaging_window: int | None = None
    max_stride: int = 10
    max_adjoint_change: float | None = 0.12
    minibatch_subsampling: int | None = None
    contraction: bool = False
    curvature: Curvature = "hessian"
    preset: Preset | None = None

    name: ClassVar[str] = "shortcut"

    @property
    def lockstep(self) -> bool:
        free = self.preset is None and (
            self.max_adjoint_change is not None or self.curvature != "hessian"
        )
        return self.hvp == "exact" and not free

    def check(self, training: TrainingConfig) -> None:
        check_horizon(self.horizon, training.steps)
        least = {
            "budget": 2,
            "interpolation_nodes": 1,
            "averaging_window": 1,
            "max_stride": 1,
            "minibatch_subsampling": 1,
        }
        for field, at_least in least.items():
            value = getattr(self, field)
            if value is not None and value < at_least:
                raise ProblemError(
                    f"{field} must be at least {at_least}, got {value}", f"hypergradient.{field}"
                )
        if self.averaging_window is not None and self.interpolation_nodes is None:
            raise ProblemError(
                "average is a knot's: say how many nodes", "hypergradient.averaging_window"
            )
        if self.max_adjoint_change is not None and not self.max_adjoint_change > 0.0:
            raise ProblemError(
                f"max_adjoint_change must be a positive number, got {self.max_adjoint_change}",
                "hypergradient.max_adjoint_change",
            )
        if self.curvature not in get_args(Curvature):
            raise ProblemError(
                f"curvature must be hessian or gauss_newton, got {self.curvature!r}",
                "hypergradient.curvature",
            )
        if self.preset not in (None, "paper", "paper_tenth"):
            raise ProblemError(
                f"preset must be paper or paper_tenth, got {self.preset!r}", "hypergradient.preset"
            )
        if self.curvature == "gauss_newton" and self.hvp == "finite_difference":
            raise ProblemError(
                "curvature gauss_newton is a product of its own: use it with hvp exact",
                "hypergradient.hvp",
            )
        if self.preset and replace(self, hvp="exact") != Shortcut(preset=self.preset):
            raise ProblemError(
                f"preset {self.preset} fixes all other settings: leave them out, or the preset",
                "hypergradient.preset",
            )

    def steps(self, training: TrainingConfig) -> range:
        if self.preset == "paper_tenth":
            return range(max(1, training.steps // 10))
        return last_steps(self.horizon, training)

    def recorder(self, run: TrainingRun) -> "InterpolatedTrajectory | SegmentedTrajectory":
        if self.preset is not None:
            return InterpolatedTrajectory([0], run.steps, window=1)
        if self.curvature == "gauss_newton":
            run.objective.require_outputs()
        start = run.steps - (self.horizon or run.steps)
        nodes = self._nodes(isinstance(run.dynamics, Adam))
        if nodes is not None:
            return InterpolatedTrajectory(
                node_steps(start, run.steps, nodes), run.steps, self.averaging_window
            )
        return SegmentedTrajectory(start, run.steps, self.budget)

    def cost(self, training: TrainingConfig) -> float:
        visited = len(self.steps(training))
        if self.preset is None:
            early = max(0, training.steps // 2 - self.steps(training).start)
            visited -= early - math.ceil(early / (self.minibatch_subsampling or 1))
        return 1.0 + (self._again(training) + PRODUCT * visited) / training.steps

    def copies(self, training: TrainingConfig) -> float:
        nodes = 1 if self.preset else self._nodes(training.is_adam)
        steps = self.backward_total(training)
        if nodes is not None:
            return min(nodes, steps) + 1.0
        return min(float(self.budget), 1.0 + BITS / 32.0 * math.ceil(steps / 3))

    def _nodes(self, is_adam: bool) -> int | None:
        return (
            NODES_FOR_ADAM
            if is_adam and self.interpolation_nodes is None
            else self.interpolation_nodes
        )

    def _again(self, training: TrainingConfig) -> int:
        """How many steps are trained again."""
        if self.preset is not None or self._nodes(training.is_adam) is not None:
            return 0
        steps = self.steps(training)
        return segment_starts(steps.start, steps.stop, self.budget)[-1] - steps.start

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, InterpolatedTrajectory | SegmentedTrajectory)
        if self.preset is not None:
            assert isinstance(recorder, InterpolatedTrajectory)
            points = run.steps if self.preset == "paper" else max(1, run.steps // 10)
            self._backward_as_published(run, recorder, adjoint, points)
            return
        watch = self.max_adjoint_change is not None
        adjoint.begin(self.contraction, self.curvature, watch, off_path=True)
        single = run.dynamics.momentum.tuned_per_step
        convolves = run.objective.convolves
        thin = self.minibatch_subsampling or (CONVOLUTION_SUBSAMPLING if convolves else 1)
        visits = SubsampledRows(run) if thin > 1 and recorder.start < run.steps // 2 else None
        stop = run.steps
        stride = self.max_stride if self.max_adjoint_change is None and not single else 1
        for path in recorder.segments(run):
            while stop > path.start:
                every = thin if stop <= run.steps // 2 and not single else 1
                start = max(path.start, stop - every * math.ceil(stride / every))
                count = stop - start
                velocity = stand_on(path, start, stop, run)
                share = min(1.0, stride / count)
                adjoint.step_back(start, count, velocity, None, every, share)
                if visits is not None:
                    visits.add(start, count, every)
                if self.max_adjoint_change is not None and not single:
                    allowed = stride * self.max_adjoint_change / max(adjoint.change, 1e-9)
                    stride = max(1, min(self.max_stride, 2 * stride, int(allowed)))
                stop = start
        if visits is not None:
            visits.settle()
        adjoint.finish(recorder.start)

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
                # One velocity for both sides of the step, as published; but at step 0, where the
                # original's index wraps around, the line goes on as it does elsewhere.
                share = betas[max(step, 1)] - betas[max(step, 1) - 1] if points > 1 else 1.0
                velocity = run.dynamics.velocity(step, 1, share * (last - first)[0])
                run.state[1].copy_(velocity)
            adjoint.step_back(step, velocity_after=velocity)
        adjoint.finish(0)


class SubsampledRows:
    """How often minibatches drew each example, and for how many draws the walk's visits stand.

    Where λ has an entry per example, chance visits some of them more often than others: their
    parts of dλ are scaled from the one to the other.
    """

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        self._drawn, self._visited = run.objective.rows_visited(), run.objective.rows_visited()

    def add(self, step: int, count: int, every: int) -> None:
        for counts, thinned in ((self._drawn, 1), (self._visited, every)):
            if counts is not None:
                index = self._run.index(step, count, thinned)
                stands_for = count / math.ceil(count / thinned)
                each = torch.full_like(index, stands_for, dtype=counts.dtype)
                counts.scatter_add_(-1, index, each)

    def settle(self) -> None:
        if self._drawn is not None and self._visited is not None:
            self._run.objective.multiply_rows(self._drawn / self._visited.clamp_min(1.0))


def stand_on(
    path: InterpolatedTrajectory | QuantizedTrajectory, start: int, stop: int, run: TrainingRun
) -> Tensor | None:
    """Puts the run on the middle of the steps `start` .. `stop - 1`.

    Returns the velocity on the polyline from `start` to `stop`, shape (P,), where it matters, and
    writes that of the step before into the state, for a tuned momentum: 0 before the first.
    """
    dynamics, middle = run.dynamics, 0.5 * (start + stop - 1)
    if not (isinstance(dynamics, MomentumSGD) and dynamics.reads_gradient):
        path.point(middle, run.path)
        return None
    here, there = torch.empty_like(run.path), torch.empty_like(run.path)
    path.point(stop, there)
    path.point(middle, run.path)
    path.point(start, here)
    velocity = dynamics.velocity(start, stop - start, (there - here)[0])
    if dynamics.momentum.total is None:
        return velocity
    if start == 0:
        run.state[1].zero_()
    elif start == path.start:
        run.state[1].copy_(velocity)
    else:
        path.point(start - 1, there)
        run.state[1].copy_(dynamics.velocity(start - 1, 1, (here - there)[0]))
    return velocity
