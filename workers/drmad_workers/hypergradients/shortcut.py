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
from drmad_workers.training.optimizers import Adam, Momentum
from drmad_workers.training.run import Recorder, TrainingConfig, TrainingRun
from drmad_workers.trajectory.interpolation import Knots, knot_steps
from drmad_workers.trajectory.quantized import BITS, CodedPath
from drmad_workers.trajectory.segments import Stretches, stretch_starts

Preset = Literal["paper", "paper_tenth"]

KNOTS_OF_ADAM = 15

THIN_OF_CONVOLUTIONS = 6
"""A product costs 2.7 gradients there, in the place of 2 (on a CPU, of a small net)."""


@dataclass(frozen=True)
class Shortcut(Method):
    """ŵ_t on a polyline through points of the last N steps, kept in a few copies of the weights.

    By default the points are coded in 2.5 bits a weight (CodedPath), and stand as dense as
    `budget` allows. Where that is less than one in 6 steps (of 16 copies beyond T = 1,152), the
    run is halved: the first half is trained again on the way back, and has points of its own,
    denser the earlier (Stretches).

    With `knots` the points are weights as they are, or their means: knot j = 0 .. K-1 stands at
    step T-N + N(1-(1-j/K)²), dense towards the end, and holds the mean around its step, which
    leaves the noise out; by default over a window as long as its distance to the next knot, so
    that almost every step counts. K = 1 without a mean is DrMAD, ŵ_t = (1-β_t) w_{T-N} + β_t w_T;
    K = N knots at stride 1 stand at every step: exact. Adam, whose second moments no coarse
    rounding leaves positive, takes 15 knots where none are asked for.

    A stride reverses m steps at once: their minibatches joined, at the middle of their stretch, by
    the map of m steps under a constant gradient. That map holds while the curvature turns dw but
    little, so the next stride is as long as |Δdw| / |dw| <= `tolerance` lets it be, judged by the
    last one: long where the path is calm, single steps where dw would be stretched.

    In the first half of the training one minibatch in `thin` may stand for all of them, which is
    cheaper and takes some of the direction. A stride that the tolerance keeps shorter than that
    moves dw by its own share of the curvature, and dλ by all of it. What λ has per example is
    scaled to how often each was drawn (see Visits). A momentum that is tuned per step lets the
    walk take single steps throughout, as its derivatives are about the velocity of each.

    Adam's moments are kept and interpolated like the weights. The velocity of SGD, which matters
    where the rates are tuned, is told from the points: (ŵ_{t+m} - ŵ_t)/Σα.

    Cost: N/m Hessian-vector products, each on the rows of m minibatches; N/2 steps of training
    where it is done again.
    Memory: `budget` copies of the weights, or K + 1 (of Adam, three times as many), whatever T.

    Attributes:
        horizon: N; None for T.
        budget: of copies of the weights for coded points and what goes with them, at least 2.
        knots: K, at least 1; None for coded points.
        average: length of a knot's window in steps; 1 takes the weights as they are, None is as
            said above.
        stride: the largest m, at least 1.
        tolerance: as said above; None takes every stride in full.
        thin: as said above; 1 visits every minibatch. None for 1, or for THIN_OF_CONVOLUTIONS
            where a model has some; `cost` counts 1.
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
    knots: int | None = None
    average: int | None = None
    stride: int = 10
    tolerance: float | None = 0.12
    thin: int | None = None
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
        least = {"budget": 2, "knots": 1, "average": 1, "stride": 1, "thin": 1}
        for field, at_least in least.items():
            value = getattr(self, field)
            if value is not None and value < at_least:
                raise ProblemError(
                    f"{field} must be at least {at_least}, got {value}", f"hypergradient.{field}"
                )
        if self.average is not None and self.knots is None:
            raise ProblemError("average is a knot's: say how many knots", "hypergradient.average")
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

    def recorder(self, run: TrainingRun) -> "Knots | Stretches":
        if self.preset is not None:
            return Knots([0], run.steps, average=1)
        if self.curvature == "gauss_newton":
            run.objective.require_outputs()
        start = run.steps - (self.horizon or run.steps)
        knots = self._knots(isinstance(run.dynamics, Adam))
        if knots is not None:
            return Knots(knot_steps(start, run.steps, knots), run.steps, self.average)
        return Stretches(start, run.steps, self.budget)

    def cost(self, training: TrainingConfig) -> float:
        visited = len(self.steps(training))
        if self.preset is None:
            early = max(0, training.steps // 2 - self.steps(training).start)
            visited -= early - math.ceil(early / (self.thin or 1))
        return 1.0 + (self._again(training) + PRODUCT * visited) / training.steps

    def copies(self, training: TrainingConfig) -> float:
        knots = 1 if self.preset else self._knots(training.is_adam)
        steps = self.backward_total(training)
        if knots is not None:
            return min(knots, steps) + 1.0
        return min(float(self.budget), 1.0 + BITS / 32.0 * math.ceil(steps / 3))

    def _knots(self, is_adam: bool) -> int | None:
        return KNOTS_OF_ADAM if is_adam and self.knots is None else self.knots

    def _again(self, training: TrainingConfig) -> int:
        """How many steps are trained again."""
        if self.preset is not None or self._knots(training.is_adam) is not None:
            return 0
        steps = self.steps(training)
        return stretch_starts(steps.start, steps.stop, self.budget)[-1] - steps.start

    def backward(self, run: TrainingRun, recorder: Recorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, Knots | Stretches)
        if self.preset is not None:
            assert isinstance(recorder, Knots)
            points = run.steps if self.preset == "paper" else max(1, run.steps // 10)
            self._backward_as_published(run, recorder, adjoint, points)
            return
        watch = self.tolerance is not None
        adjoint.begin(self.contraction, self.curvature, watch, off_path=True)
        single = run.dynamics.momentum.tuned_per_step
        convolves = run.objective.convolves
        thin = self.thin or (THIN_OF_CONVOLUTIONS if convolves else 1)
        visits = Visits(run) if thin > 1 and recorder.start < run.steps // 2 else None
        stop = run.steps
        stride = self.stride if self.tolerance is None and not single else 1
        for path in recorder.back(run):
            while stop > path.start:
                every = thin if stop <= run.steps // 2 and not single else 1
                start = max(path.start, stop - every * math.ceil(stride / every))
                count = stop - start
                velocity = stand_on(path, start, stop, run)
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


def stand_on(path: Knots | CodedPath, start: int, stop: int, run: TrainingRun) -> Tensor | None:
    """Puts the run on the middle of the steps `start` .. `stop - 1`.

    Returns the velocity on the polyline from `start` to `stop`, shape (P,), where it matters, and
    writes that of the step before into the state, for a tuned momentum: 0 before the first.
    """
    dynamics, middle = run.dynamics, 0.5 * (start + stop - 1)
    if not (isinstance(dynamics, Momentum) and dynamics.reads_gradient):
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
