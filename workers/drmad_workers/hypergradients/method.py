"""What every method shares: its signature, and the exact reverse of one inner step.

With dw = ∇f(w_T), dv = 0 and dλ = ∂f/∂λ, for t = T-1 .. 0 ([Maclaurin2015], 1502.03492):

    dv += α dw        (dw, dλ) -= δ ∂/∂(w, λ) <∇_w L_t(ŵ_t, λ), dv>        dv *= γ

for momentum; dynamics.py writes out the reverse of every optimizer.

Methods differ in ŵ_t, the point where step t is linearised, and in which steps they visit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from drmad_client.spec import refusals
from drmad_workers.errors import HypergradientDiverged, ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.init_scale import BoundInitScale
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.objective.products import Hvp, Linearization
from drmad_workers.training.run import TrainingConfig, TrainingRun, TrajectoryRecorder

GROWTH_BOUND = 1e8
"""How far |dw| may grow beyond its first value: a direction that has passed through such a
stretching keeps few digits in float32, and the published method's went to 10^21."""

CONTRACTION = 0.01
"""Under contraction |dw| grows by at most this share per inner step."""

PRODUCT = 2.0
"""Cost of a Hessian-vector product in gradients on the same rows, by counting matrix products: of
a layer whose inputs need no derivative 4 (forward, gradient, its two reverses) against 2."""

Curvature = Literal["hessian", "gauss_newton"]


@dataclass(frozen=True)
class Method(ABC):
    """A way to the hypergradient; its fields are its settings.

    A method is used in this order: `check` and `refuses`, `recorder` (given to the forward pass),
    and after the outer gradient stands in the adjoint, `backward`.

    Attributes:
        hvp: products with the Hessian are "exact", by differentiating twice, or a
            "finite_difference" of two gradients, for models whose kernels cannot be
            differentiated twice; see Objective.difference_product.
    """

    hvp: Hvp = field(default="exact", kw_only=True)

    name: ClassVar[str]

    @abstractmethod
    def check(self, training: TrainingConfig) -> None:
        """Raises ProblemError when the settings do not fit the training run."""

    def steps(self, training: TrainingConfig) -> range:
        """The inner steps that it differentiates."""
        return range(training.steps)

    def refuses(self, bound: BoundHyperparameter, training: TrainingConfig) -> str | None:
        """Why it has no derivative by this hyperparameter, or not by all of it; None if it has.

        The rules are those of the client, see drmad_client.spec.refusals.
        """
        steps = self.steps(training)
        if isinstance(bound, BoundInitScale):
            return refusals.first_step_missing(steps)
        if isinstance(bound, BoundRate) and bound.layout[1] > 1:
            return refusals.steps_missing(steps, training.steps)
        return None

    @property
    def lockstep(self) -> bool:
        """Whether its way does not depend on what it meets, so that replicas walk it together."""
        return False

    @property
    def takes_part(self) -> bool:
        """Whether it changes or differentiates the training's own steps, beyond looking on."""
        return False

    @abstractmethod
    def recorder(self, run: TrainingRun) -> TrajectoryRecorder:
        """What the forward pass has to keep for `backward`."""

    @abstractmethod
    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: "Adjoint") -> None:
        """Walks back from w_T, which stands in the objective; dλ gathers in the objective.

        Raises:
            HypergradientError: there is no direction to trust, such as HypergradientDiverged,
                where |dw| left its bound.
            Stopped: the monitor was told to stop.
        """

    def backward_total(self, training: TrainingConfig) -> int:
        """How many steps `backward` goes through, for the progress it reports."""
        return len(self.steps(training))

    def cost(self, training: TrainingConfig) -> float:
        """Of a meta-iteration, in plain training runs, by counting gradients and products."""
        return 1.0 + PRODUCT * self.backward_total(training) / training.steps

    def copies(self, training: TrainingConfig) -> float:
        """Of the weights (of Adam, of its state): what is kept of the path, at most."""
        return 1.0


class Adjoint:
    """dw and dv on their way back through the training run.

    Where the run stacks R replicas, there is a norm for each of them.

    Attributes:
        state: the derivative by the state, shape (1 + S, P): dw, and below it that by the memory
            of the optimizer (dv).
        weights: dw, its first row.
        products: Hessian-vector products taken so far.
        growth: the largest |dw| so far, relative to the first.
        strict: whether every step back looks at dλ, too, which costs a pass over it.
        change: how far the curvature moved dw in the last step back, relative to |dw|; only
            where `begin` was told to watch it.
    """

    def __init__(self, run: TrainingRun, strict: bool = False) -> None:
        self.state = torch.zeros_like(run.state)
        self.strict = strict
        self.weights = self.state[0]
        self.products = 0
        self._run = run
        self._cotangent = torch.empty_like(self.weights)
        self.change = 0.0
        self._bound = math.inf
        self._contraction = False
        self._watch = False
        self._off_path = False
        self._curvature: Curvature = "hessian"
        self._first = self._last = self._largest = torch.linalg.vector_norm(self.weights, dim=-1)
        self._check_every = 1 if run.objective.device.type == "cpu" else 50

    @property
    def growth(self) -> float:
        growth = self._largest / self._first.clamp_min(torch.finfo(self._first.dtype).tiny)
        return float(growth.max())

    def begin(
        self,
        contraction: bool,
        curvature: Curvature = "hessian",
        watch: bool = False,
        off_path: bool = False,
    ) -> None:
        """Starts the walk: dw is the outer gradient now.

        With contraction |dw| grows by at most 1 % per inner step: beyond that the state is scaled
        back. A Hessian met off the true path can stretch without end; the training itself, where
        it converged, does not.

        Args:
            curvature: "gauss_newton" takes Objective's product of that name.
            watch: whether to measure `change`, which waits for the device.
            off_path: see HypergradientDiverged.
        """
        norm = torch.linalg.vector_norm(self.weights, dim=-1)
        self._first = self._last = self._largest = norm
        self._contraction, self._curvature, self._watch = contraction, curvature, watch
        self._off_path = off_path
        if watch:
            self._check_every = 1
        self._bound = math.inf
        self._check(self._run.steps, norm)
        self._bound = GROWTH_BOUND * float(norm.min())

    def step_back(
        self,
        step: int,
        count: int = 1,
        velocity_after: Tensor | None = None,
        at: Linearization | None = None,
        every: int = 1,
        share: float = 1.0,
    ) -> None:
        """Reverses the steps `step` .. `step + count - 1`, linearised at the run's `point`.

        Their minibatches are joined, and the map is the one of `count` steps under a constant
        gradient (Dynamics.pull_back, which also says what `velocity_after` is). `at` is the
        gradient there with its graph, where it is known already. Of `every` so many minibatches
        the first stands for all; `share` of the curvature moves dw; see subtract_product.
        """
        run = self._run
        dynamics, cotangent = run.dynamics, self._cotangent

        def prepare(gradient: Tensor | None = None) -> None:
            dynamics.pull_back(
                step, count, self.state, cotangent, run.state, gradient, velocity_after
            )

        batch = run.batch(step, count, every) if at is None else at.batch
        before = self.weights.clone() if self._watch else None
        gauss_newton = self._curvature == "gauss_newton"
        product = run.objective.subtract_product
        if dynamics.reads_gradient_at(velocity_after):
            product(batch, cotangent, self.weights, prepare, gauss_newton, at, share)
        else:
            prepare()
            product(batch, cotangent, self.weights, None, gauss_newton, at, share)
        self.products += 1
        if self.strict:
            run.objective.require_finite(step)
        norm = torch.linalg.vector_norm(self.weights, dim=-1)
        if self.products % self._check_every == 0:
            self._check(step, norm)
        if before is not None:
            moved = torch.linalg.vector_norm(before.sub_(self.weights), dim=-1)
            self.change = float((moved / self._last).max())
        if self._contraction:
            limit = self._last * math.exp(CONTRACTION * count)
            scale = (limit / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1.0)
            self.state.mul_(scale[..., None])
            norm = torch.minimum(limit, norm)
        self._last, self._largest = norm, torch.maximum(self._largest, norm)
        run.monitor.advance(count)

    def finish(self, step: int) -> None:
        """Raises HypergradientDiverged when dw did not stay within its bound to the end."""
        self._check(step, torch.linalg.vector_norm(self.weights, dim=-1))

    def _check(self, step: int, norms: Tensor) -> None:
        norm = float(norms.max())
        if not norm <= self._bound or not math.isfinite(norm):
            raise HypergradientDiverged(step, norm, self._bound, self._off_path)


def require_derivatives(
    method: Method, bound: Iterable[BoundHyperparameter], training: TrainingConfig
) -> None:
    """Raises ProblemError naming the first hyperparameter that the method refuses."""
    if method.hvp not in get_args(Hvp):
        raise ProblemError(
            f"hvp must be exact or finite_difference, got {method.hvp!r}", "hypergradient.hvp"
        )
    for hyperparameter in bound:
        reason = method.refuses(hyperparameter, training)
        if reason is not None:
            name = hyperparameter.name
            raise ProblemError(
                f"{method.name} has no hypergradient for {name}: {reason}",
                f"hyperparameters.{name}",
            )


def require_none(found: Iterable[refusals.Refusal]) -> None:
    """Raises ProblemError for the first refusal."""
    for refusal in found:
        raise ProblemError(refusal.message, refusal.field)


def check_horizon(horizon: int | None, steps: int) -> None:
    require_none(refusals.horizon_refusals(horizon, steps))


def last_steps(horizon: int | None, training: TrainingConfig) -> range:
    """The last `horizon` inner steps; all of them for None."""
    return refusals.last_steps(horizon, training.steps)
