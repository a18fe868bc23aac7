"""DrMAD: the backward pass walks a line through few kept points in the place of the path.

[Fu2016] DrMAD: distilling reverse-mode automatic differentiation for optimizing hyperparameters
of deep neural networks, 1601.00917.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from drmad_workers.dynamics import Momentum
from drmad_workers.errors import ProblemError
from drmad_workers.hypergradients.base import (
    PRODUCT,
    Adjoint,
    Curvature,
    Method,
    check_horizon,
    last_steps,
)
from drmad_workers.training import Recorder, TrainingConfig, TrainingRun

Preset = Literal["paper", "paper_tenth"]


@dataclass(frozen=True)
class Shortcut(Method):
    """ŵ_t on a polyline through K kept points of the last N steps, and w_T.

    Knot j = 0 .. K-1 stands at step T-N + N(1-(1-j/K)²), dense towards the end. It holds the mean
    of the weights around its step, which leaves their noise out; by default over a window as long
    as its distance to the next knot, so that almost every step counts. K = 1 without a mean is
    DrMAD, ŵ_t = (1-β_t) w_{T-N} + β_t w_T; K = N knots at stride 1 stand at every step: exact.

    A stride reverses m steps at once: their minibatches joined, at the middle of their stretch, by
    the map of m steps under a constant gradient. That map holds while the curvature turns dw but
    little, so the next stride is as long as |Δdw| / |dw| <= `tolerance` lets it be, judged by the
    last one: long where the path is calm, single steps where dw would be stretched.

    In the first half of the training one minibatch in `thin` stands for all of them. A stride that
    the tolerance keeps shorter than that moves dw by its own share of the curvature, and dλ by all
    of it. What λ has per example is scaled to how often each was drawn (see Visits). A momentum
    that is tuned per step lets the walk take single steps throughout, as its derivatives are about
    the velocity of each.

    Adam's moments are kept and interpolated like the weights. The velocity of SGD, which matters
    where the rates are tuned, is told from the points: (ŵ_{t+m} - ŵ_t)/Σα.

    Cost: N/m Hessian-vector products, each on the rows of m minibatches, or of m / `thin`.
    Memory: K + 1 copies of the weights (of Adam, three times as many), whatever T.

    Attributes:
        horizon: N; None for T.
        knots: K, at least 1.
        average: length of a knot's window in steps; 1 takes the weights as they are, None is as
            said above.
        stride: the largest m, at least 1.
        tolerance: as said above; None takes every stride in full.
        thin: as said above; 1 visits every minibatch.
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
    knots: int = 15
    average: int | None = None
    stride: int = 10
    tolerance: float | None = 0.08
    thin: int = 2
    contraction: bool = False
    curvature: Curvature = "hessian"
    preset: Preset | None = None

    name: ClassVar[str] = "shortcut"

    @property
    def lockstep(self) -> bool:
        free = self.preset is None and (self.tolerance is not None or self.curvature != "hessian")
        return self.hvp == "exact" and not free

    def check(self, training: TrainingConfig) -> None:
        check_horizon(self.horizon, training.steps)
        for field in ("knots", "average", "stride", "thin"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ProblemError(
                    f"{field} must be at least 1, got {value}", f"hypergradient.{field}"
                )
        if self.tolerance is not None and not self.tolerance > 0.0:
            raise ProblemError(
                f"tolerance must be a positive number, got {self.tolerance}",
                "hypergradient.tolerance",
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

    def recorder(self, run: TrainingRun) -> "Knots":
        if self.preset is not None:
            return Knots([0], run.steps, average=1)
        if self.curvature == "gauss_newton":
            run.objective.require_outputs()
        start = run.steps - (self.horizon or run.steps)
        return Knots(knot_steps(start, run.steps, self.knots), run.steps, self.average)

    def cost(self, training: TrainingConfig) -> float:
        visited = len(self.steps(training))
        if self.preset is None:
            early = max(0, training.steps // 2 - self.steps(training).start)
            visited -= early - math.ceil(early / self.thin)
        return 1.0 + PRODUCT * visited / training.steps

    def copies(self, training: TrainingConfig) -> float:
        return 2.0 if self.preset else min(self.knots, self.backward_total(training)) + 1.0

    def backward(self, run: TrainingRun, recorder: Recorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, Knots)
        if self.preset is not None:
            points = run.steps if self.preset == "paper" else max(1, run.steps // 10)
            self._backward_as_published(run, recorder, adjoint, points)
            return
        watch = self.tolerance is not None
        adjoint.begin(self.contraction, self.curvature, watch, off_path=True)
        single = run.dynamics.momentum.tuned_per_step
        visits = None
        if self.thin > 1 and recorder.start < run.steps // 2:
            visits = Visits(run)
        stop = run.steps
        stride = self.stride if self.tolerance is None and not single else 1
        while stop > recorder.start:
            every = self.thin if stop <= run.steps // 2 and not single else 1
            start = max(recorder.start, stop - every * math.ceil(stride / every))
            count = stop - start
            velocity = recorder.velocity(start, stop, run)
            recorder.point(0.5 * (start + stop - 1), run.path)
            share = min(1.0, stride / count)
            adjoint.step_back(start, count, velocity, None, every, share)
            if visits is not None:
                visits.add(start, count, every)
            if self.tolerance is not None and not single:
                allowed = stride * self.tolerance / max(adjoint.change, 1e-9)
                stride = max(1, min(self.stride, 2 * stride, int(allowed)))
            stop = start
        if visits is not None:
            visits.settle()
        adjoint.finish(recorder.start)

    def _backward_as_published(
        self, run: TrainingRun, recorder: "Knots", adjoint: Adjoint, points: int
    ) -> None:
        adjoint.begin(contraction=False, off_path=True)
        first, last = recorder.ends()
        betas = torch.linspace(0.001, 0.999, points, dtype=torch.float64).tolist()
        for step in range(points - 1, -1, -1):
            torch.lerp(first, last, betas[step], out=run.path)
            velocity = None
            if isinstance(run.dynamics, Momentum) and run.dynamics.reads_gradient:
                # One velocity for both sides of the step, as published; but at step 0, where the
                # original's index wraps around, the line goes on as it does elsewhere.
                share = betas[max(step, 1)] - betas[max(step, 1) - 1] if points > 1 else 1.0
                velocity = run.dynamics.velocity(step, 1, share * (last - first)[0])
                run.state[1].copy_(velocity)
            adjoint.step_back(step, velocity_after=velocity)
        adjoint.finish(0)


class Visits:
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


def knot_steps(start: int, stop: int, knots: int) -> list[int]:
    """Increasing steps of min(K, N) knots between `start` (the first) and `stop` (left out).

    t_j = start + N (1 - (1 - j/K)²), pushed apart where rounding would join two.
    """
    length = stop - start
    count = min(knots, length)
    steps = [start + round(length * (1.0 - (1.0 - j / count) ** 2)) for j in range(count)]
    ceiling = stop
    for j in range(count - 1, -1, -1):
        ceiling = steps[j] = min(steps[j], ceiling - 1)
    return steps


class Knots:
    """Kept points of the path: the states at some steps, or their means in windows around them.

    The window of a knot at step t is [t - a/2, t + a/2), cut at the first knot and at T, and the
    point counts as the one at the window's mean step; without a given length a reaches the next
    knot. The end point is w_T itself.
    """

    def __init__(self, steps: Sequence[int], stop: int, average: int | None) -> None:
        self.start = steps[0]
        self._stop = stop
        lengths = [average or following - step for step, following in pairwise([*steps, stop])]
        self._windows = [
            (max(self.start, step - length // 2), min(stop, step + length - length // 2))
            for step, length in zip(steps, lengths, strict=True)
        ]
        self._times = [0.5 * (first + last - 1) for first, last in self._windows]
        self._points: list[Tensor] = []
        self._from = 0
        self.next_step = self._windows[0][0]

    def visit(self, step: int, run: TrainingRun) -> None:
        point = run.path
        if step == self._stop:
            self._points.append(point.clone())
            self._times.append(float(step))
            return
        for number in range(self._from, len(self._windows)):
            first, last = self._windows[number]
            if first > step:
                break
            if first == step:
                self._points.append(point / (last - first))
            elif step < last:
                self._points[number].add_(point, alpha=1.0 / (last - first))
        while self._from < len(self._windows) and self._windows[self._from][1] <= step + 1:
            self._from += 1
        self.next_step = self._next(step + 1)

    def point(self, time: float, out: Tensor) -> None:
        """Writes the state at `time` (in steps) on the polyline into `out`, shape (rows, P)."""
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

    def velocity(self, start: int, stop: int, run: TrainingRun) -> Tensor | None:
        """The velocity on the polyline from `start` to `stop`, shape (P,), where it matters.

        Writes that of the step before into the state, for a tuned momentum: 0 before the first.
        """
        dynamics = run.dynamics
        if not (isinstance(dynamics, Momentum) and dynamics.reads_gradient):
            return None
        here, there = torch.empty_like(run.path), torch.empty_like(run.path)
        self.point(start, here)
        self.point(stop, there)
        velocity = dynamics.velocity(start, stop - start, (there - here)[0])
        if dynamics.momentum.total is None:
            return velocity
        if start == 0:
            run.state[1].zero_()
        elif start == self.start:
            run.state[1].copy_(velocity)
        else:
            self.point(start - 1, there)
            run.state[1].copy_(dynamics.velocity(start - 1, 1, (here - there)[0]))
        return velocity

    def ends(self) -> tuple[Tensor, Tensor]:
        """The first and the last point."""
        return self._points[0], self._points[-1]

    def _next(self, step: int) -> int:
        """The next step at or after `step` inside a window, or the end."""
        for first, last in self._windows[self._from :]:
            if step < last:
                return max(step, first)
        return self._stop
