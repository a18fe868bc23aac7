"""The signature of a hypergradient method, and the exact reverse of one inner step.

With dw = ∇f(w_T), dv = 0 and dλ = ∂f/∂λ, for t = T-1 .. 0 ([Maclaurin2015], 1502.03492):

    dv += α dw        (dw, dλ) -= δ ∂/∂(w, λ) <∇_w L_t(ŵ_t, λ), dv>        dv *= γ

for momentum SGD; training/optimizers writes out the reverse of every optimizer.

Methods differ in ŵ_t, the point where step t is linearised, and in the steps that they visit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from drmad_client.spec import defaults, refusals
from drmad_workers.data.pass_order import Order
from drmad_workers.errors import HypergradientDiverged, ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.init_scale import BoundInitScale
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.objective.inner import Linearization
from drmad_workers.objective.objective import Objective
from drmad_workers.objective.products.gauss_newton import gauss_newton_product
from drmad_workers.objective.products.product import Hvp, Product
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder

GROWTH_BOUND = 1e8
"""Bounds |dw| relative to its first value. In float32 a direction that has grown that far keeps few
correct digits; with the published method |dw| grew by a factor of 10^21."""

CONTRACTION = 0.01
"""Bounds the growth of |dw| per inner step under contraction, as a share of |dw|."""

PRODUCT = 2.0
"""The cost of a Hessian-vector product in gradients on the same rows, in matrix products: a layer
whose inputs need no derivative takes 4 (forward, gradient, two reverses) against 2."""

Curvature = Literal["hessian", "gauss_newton"]


@dataclass(frozen=True)
class Method(ABC):
    """A method to compute a hypergradient; its fields are its settings.

    The engine calls `check` and `refuses` first, passes the `recorder` to the forward pass, and
    calls `backward` once the adjoint holds the outer gradient.

    Attributes:
        hvp: the product with the Hessian: "exact" differentiates twice; "finite_difference" takes
            the difference of two gradients, for models whose kernels cannot be differentiated
            twice (see objective/products).
    """

    hvp: Hvp = field(default=defaults.Method.hvp, kw_only=True)

    name: ClassVar[str]

    @abstractmethod
    def check(self, training: TrainingConfig) -> None:
        """Raises ProblemError unless the settings fit the training run."""

    def steps(self, training: TrainingConfig) -> range:
        """The inner steps that the method differentiates."""
        return range(training.steps)

    def refuses(self, bound: BoundHyperparameter, training: TrainingConfig) -> str | None:
        """Why the method has no derivative by all of this hyperparameter; None if it has one.

        The rules are those of the client, see drmad_client.spec.refusals.
        """
        steps = self.steps(training)
        if isinstance(bound, BoundInitScale):
            return refusals.first_step_missing(steps)
        if isinstance(bound, BoundRate) and bound.layout[1] > 1:
            return refusals.steps_missing(steps, training.steps)
        return None

    def refusals_beside(self, bound: Iterable[BoundHyperparameter]) -> Iterable[refusals.Refusal]:
        """Settings that have no effect beside these hyperparameters."""
        return ()

    def limits(self, objective: Objective) -> list[str]:
        """What the hypergradient leaves out on this problem: a sentence each."""
        return []

    def exceeded(self, run: TrainingRun) -> list[str]:
        """The bounds of memory that the method cannot keep on this problem: a sentence each."""
        return []

    @property
    def lockstep(self) -> bool:
        """Whether its steps do not depend on the values met, so that replicas can be batched."""
        return False

    @property
    def takes_part(self) -> bool:
        """Whether the method changes or differentiates the training steps themselves."""
        return False

    @abstractmethod
    def recorder(self, run: TrainingRun) -> TrajectoryRecorder:
        """Keeps in the forward pass what `backward` needs of the trajectory."""

    def order(self, run: TrainingRun, recorder: TrajectoryRecorder) -> Order:
        """The minibatches that `backward` reads, for data that other processes read ahead."""
        return run.order(range(run.steps - 1, -1, -1))

    @abstractmethod
    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: "Adjoint") -> None:
        """The backward pass from w_T, the run's state; dλ accumulates in the objective.

        Raises:
            HypergradientError: no reliable direction exists, for example HypergradientDiverged,
                where |dw| exceeds its bound.
            Stopped: the caller asked to stop.
        """

    def backward_total(self, training: TrainingConfig) -> int:
        """The number of steps of `backward`, for the progress that it reports."""
        return len(self.steps(training))

    def cost(self, training: TrainingConfig) -> float:
        """The cost of a meta-iteration in plain training runs, from its gradients and products."""
        return 1.0 + PRODUCT * self.backward_total(training) / training.steps

    def copies(self, training: TrainingConfig) -> float:
        """Bounds the memory of the trajectory, in copies of the weights (of Adam's state).

        It is a count without a model; `trajectory_bytes` measures what depends on one.
        """
        return 1.0

    def trajectory_bytes(self, run: TrainingRun, training: TrainingConfig) -> int:
        """The bytes that the method keeps of a trajectory.

        Args:
            run: a run of the problem, of any number of steps, at its first weights.
            training: the settings of the run whose trajectory is kept.
        """
        return round(self.copies(training) * run.path.nbytes)


class Adjoint:
    """The adjoint of the state, dw and dv, which a backward pass moves from w_T to w_0.

    If the run holds R replicas, every norm and every bound has one entry per replica. The adjoints
    of N queries of one run lie side by side in the same way, with one entry per query.

    Attributes:
        state: the derivative by the state, shape (1 + S, P + Q), (1 + S, R, P) of R replicas, or
            (1 + S, N, P + Q) of N queries: dw, and below it the derivative by the optimizer's
            memory (dv).
        weights: dw, in its first row.
        carried: db, the derivative by the carried values, behind dw, shape (Q,).
        products: the number of Hessian-vector products so far.
        strict: whether every step checks that dλ is finite, which costs one pass over it.
        change: the relative change |Δdw| / |dw| that the curvature caused in the last step, the
            largest of all replicas; measured only if `begin` asks for it.
    """

    def __init__(
        self,
        run: TrainingRun,
        strict: bool = False,
        queries: int | None = None,
        spread: Callable[[Product], Product] | None = None,
    ) -> None:
        """
        Args:
            run: the run whose steps are reversed.
            strict: see the attribute.
            queries: N; None for one adjoint, or one of each replica.
            spread: makes of a product that of N cotangents, shape (N, P); N needs it.
        """
        rows, *shape = run.state.shape
        self._lead = () if queries is None else (queries,)
        self._spread = spread
        self.state = run.state.new_zeros(rows, *self._lead, *shape)
        self.strict = strict
        parameters = run.objective.parameters
        count, size = parameters.weights.shape[-1], parameters.carried.size
        self.weights = self.state[0][..., :count]
        self.carried = self.state[0][..., self.state.shape[-1] - size :]
        self._optimizer_state = self.state[..., :count]
        self.products = 0
        self._run = run
        # Training, which writes the gradient, and the reverse of a step take turns.
        self._cotangent = run.gradient if queries is None else torch.empty_like(self.weights)
        self._before = self.weights.new_empty(0)
        self.change = 0.0
        self._contraction = False
        self._watch = False
        self._off_path = False
        self._product: Product | None = None
        self._first = self._last = self._largest = norms(self.weights)
        self._bounds = [math.inf] * self._first.numel()
        self._check_every = 1 if run.state.device.type == "cpu" else 50

    def follow(self, run: TrainingRun) -> None:
        """Goes on through the steps of an earlier run of the same objective."""
        self._run = run

    @property
    def growth(self) -> float:
        """The largest |dw| so far relative to the first, of all replicas; 1 if dw is 0."""
        growth = ratio(self._largest, self._first)
        return float(growth.masked_fill(self._largest == 0.0, 1.0).max())

    def begin(
        self,
        contraction: bool,
        curvature: Curvature = "hessian",
        watch: bool = False,
        off_path: bool = False,
    ) -> None:
        """Starts the backward pass, with the outer gradient in dw.

        Args:
            contraction: bounds the growth of |dw| by 1 % per inner step, by scaling the state. A
                Hessian at a point off the trajectory can make |dw| grow without limit; the
                training itself, where it converged, does not.
            curvature: "gauss_newton" replaces the product by the Gauss-Newton product.
            watch: measures `change`, which waits for the device.
            off_path: see HypergradientDiverged.
        """
        first = norms(self.weights)
        self._last = self._largest = first
        # An outer loss of averaged weights, which are carried, does not depend on w_T itself.
        self._first = first
        if self.carried.numel():
            self._first = torch.where(first > 0.0, first, norms(self.carried))
        self._contraction, self._watch = contraction, watch
        self._product = gauss_newton_product if curvature == "gauss_newton" else None
        self._off_path = off_path
        if watch:
            self._check_every = 1
            self._before = torch.empty_like(self.weights)
        self._bounds = [math.inf] * first.numel()
        self._check(self._run.steps, first)
        self._bounds = growth_bounds(self._first)

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

        The minibatches of the steps are joined, and the map is that of `count` steps under a
        constant gradient (InnerOptimizer.pull_back, which also explains `velocity_after`). The
        gradient of the joined minibatches is the one that is clipped.

        Args:
            step, count: the steps.
            velocity_after: see InnerOptimizer.pull_back.
            at: the gradient at the point with its graph, if it is known.
            every: uses the first of every `every` minibatches.
            share: the share of the curvature that moves dw; see Objective.subtract_product.
        """
        run = self._run
        dynamics, cotangent = run.dynamics, self._cotangent

        def prepare(gradient: Tensor | None = None) -> None:
            taken, state = gradient, run.optimizer_state
            if run.clip is not None and gradient is not None:
                taken = run.clip.clipped(gradient)
            if self._lead:
                state = state[:, None].expand(-1, *self._lead, -1)
                taken = None if taken is None else taken.expand(*self._lead, -1)
            dynamics.pull_back(
                step, count, self._optimizer_state, cotangent, state, taken, velocity_after
            )
            if run.clip is not None and gradient is not None:
                cotangent.copy_(run.clip.product(gradient, cotangent))

        objective = run.objective
        if step == 0 and run.window.verifies:
            objective.inner.traced.check()
        objective.parameters.load_carried()
        reads_gradient = run.clip is not None or dynamics.reads_gradient_at(velocity_after)
        if self._watch:
            self._before.copy_(self.weights)
        if run.accumulate > 1:
            self._subtract_parts(step, count, every, share, prepare, reads_gradient)
        else:
            if not reads_gradient:
                prepare()
            objective.subtract_product(
                run.batch(step, count, every) if at is None else at.batch,
                cotangent,
                self.weights,
                prepare if reads_gradient else None,
                at,
                share,
                self._spread_product,
                self._carried_if_any,
                count,
            )
        self.products += 1
        if self.strict:
            run.objective.sums.require_finite(step)
        norm = norms(self.weights)
        if self.products % self._check_every == 0:
            self._check(step, norm)
        if self._watch:
            moved = norms(self._before.sub_(self.weights))
            self.change = float(ratio(moved, self._last).max())
        if self._contraction:
            limit = self._last * math.exp(CONTRACTION * count)
            limit.masked_fill_(limit == 0.0, math.inf)
            scale = ratio(limit, norm).clamp_max(1.0)
            self.state.mul_(scale[..., None])
            norm = torch.minimum(limit, norm)
        self._last, self._largest = norm, torch.maximum(self._largest, norm)
        run.monitor.advance(count)

    @property
    def _spread_product(self) -> Product | None:
        """The product of the pass; None for that of the objective."""
        if self._spread is None:
            return self._product
        return self._spread(self._product or self._run.objective.product)

    @property
    def _carried_if_any(self) -> Tensor | None:
        return self.carried if self._run.objective.parameters.carried else None

    def _subtract_parts(
        self,
        step: int,
        count: int,
        every: int,
        share: float,
        prepare: Callable[[Tensor | None], None],
        reads_gradient: bool,
    ) -> None:
        """The products of steps that take the mean of several gradients, the last part first.

        The carried values move from part to part, and so does their adjoint backwards.
        """
        run, parameters, carried = self._run, self._run.objective.parameters, self._carried_if_any
        gradient: Tensor | None = None
        before: list[Tensor] = []
        if reads_gradient or carried is not None:
            gradient = torch.empty_like(run.gradient)
            _, before = run.mean_gradient(step, count, every, gradient)
        prepare(gradient if reads_gradient else None)
        each = self._cotangent / run.accumulate
        for first in reversed(run.parts(step, count)):
            if carried is not None:
                parameters.carried_flat.copy_(before.pop())
                parameters.load_carried()
            batch = run.batch(first, count, every)
            run.objective.subtract_product(
                batch, each, self.weights, None, None, share, self._spread_product, carried, count
            )

    def finish(self, step: int) -> None:
        """Raises HypergradientDiverged unless |dw| is within its bound at the end."""
        self._before = self.weights.new_empty(0)
        self._check(step, norms(self.weights))

    def _check(self, step: int, norm: Tensor) -> None:
        for each, bound in zip(norm.reshape(-1).tolist(), self._bounds, strict=True):
            if not each <= bound or not math.isfinite(each):
                raise HypergradientDiverged(step, each, bound, self._off_path)


def norms(weights: Tensor) -> Tensor:
    """|dw|, shape () for one replica and (R,) for R replicas."""
    found: Tensor = torch.linalg.vector_norm(weights, dim=-1)
    return found


def ratio(norm: Tensor, reference: Tensor) -> Tensor:
    """norm / reference, and 0 where both are 0."""
    return norm / reference.clamp_min(torch.finfo(reference.dtype).tiny)


def growth_bounds(first: Tensor) -> list[float]:
    """GROWTH_BOUND times each first norm, but at least times the smallest reliable norm.

    Below the root of the smallest normal number the squares in a norm underflow: such a norm, and
    0 with it, says nothing about the growth that follows.
    """
    least = math.sqrt(torch.finfo(first.dtype).tiny)
    return [GROWTH_BOUND * max(norm, least) for norm in first.reshape(-1).tolist()]


def require_derivatives(
    method: Method, bound: Iterable[BoundHyperparameter], training: TrainingConfig
) -> None:
    """Raises ProblemError that names the first hyperparameter without a derivative.

    It also refuses the settings of the method that have no effect beside the hyperparameters.
    """
    bound = list(bound)
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
    require_none(method.refusals_beside(bound))


def require_none(found: Iterable[refusals.Refusal]) -> None:
    """Raises ProblemError for the first refusal."""
    for refusal in found:
        raise ProblemError(refusal.message, refusal.field)


def check_horizon(horizon: int | None, steps: int) -> None:
    require_none(refusals.horizon_refusals(horizon, steps))


def last_steps(horizon: int | None, training: TrainingConfig) -> range:
    """The last `horizon` inner steps; all steps for None."""
    return refusals.last_steps(horizon, training.steps)
