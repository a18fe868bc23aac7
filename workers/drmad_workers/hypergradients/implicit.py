"""Implicit differentiation at the minimum of the training loss.

[Lorraine2020] Optimizing millions of hyperparameters by implicit differentiation, 1911.02590.
[Pedregosa2016] Hyperparameter optimization with approximate gradient, 1602.02355.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from drmad_client.spec import bounds, defaults, refusals
from drmad_workers.data.pass_order import Order
from drmad_workers.errors import (
    CurvatureIndefinite,
    ProblemError,
    SolverNotConverged,
    require_bounds,
)
from drmad_workers.hypergradients.method import Adjoint, Method, require_none
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.init_scale import BoundInitScale
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.objective.objective import Objective
from drmad_workers.problem import Batch
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.optimizers import MomentumSGD
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder

Solver = Literal["conjugate_gradient", "neumann"]


@dataclass(frozen=True)
class Implicit(Method):
    """Applies the implicit function theorem to the stationarity condition ∇_w L(w*, λ) = 0.

        dλ = ∂f/∂λ - ∂/∂λ <∇_w L(w, λ), x>,    (H + μ) x = ∇f(w),    H = ∇²_w L(w, λ), at w = w_T

    L is the mean training loss over the minibatches of one epoch. `conjugate_gradient` solves for
    x as [Pedregosa2016]. `neumann` takes the first K terms of x = η Σ_k (I - η (H + μ))^k ∇f as
    [Lorraine2020], which equals truncated replay of K steps with w fixed at w_T. Both stop once
    |∇f - (H + μ) x| <= tolerance |∇f|.

    The result is as accurate as w_T is close to the minimum. It does not depend on how the minimum
    was reached, so that learning rates, momenta and initial weights have no hypergradient. If H is
    not positive definite, x does not exist: the solver raises CurvatureIndefinite at the first
    direction of no positive curvature, instead of returning an uncorrelated direction (cosine -.86
    to the exact hypergradient was observed in another library).

    What training changes beside the weights (running statistics, averaged copies) is a constant
    here, although it depends on the weights; `limits` names it.

    Cost: at most K + 1 Hessian-vector products, each over one epoch.
    Memory: four vectors of shape (P,); the trajectory is not kept.

    Attributes:
        solver: "conjugate_gradient" or "neumann".
        iterations: K, at least 1.
        tolerance: the relative residual, in (0, 1]; 1 accepts the result of K iterations.
        damping: μ >= 0. It makes H + μ positive definite where the curvature exceeds -μ, and
            biases the result.
        step_size: η of neumann; None takes the learning rate of the training before its schedule,
            in torch's convention.
    """

    solver: Solver = defaults.Implicit.solver
    iterations: int = defaults.Implicit.iterations
    tolerance: float = defaults.Implicit.tolerance
    damping: float = defaults.Implicit.damping
    step_size: float | None = None

    name: ClassVar[str] = "implicit"

    def check(self, training: TrainingConfig) -> None:
        solvers = get_args(Solver)
        if self.solver not in solvers:
            raise ProblemError(
                f"solver must be one of {', '.join(solvers)}, got {self.solver!r}",
                "hypergradient.solver",
            )
        require_bounds(self, bounds.Implicit, "hypergradient")
        require_none(
            refusals.implicit_refusals(
                training.optimizer,
                training.weight_decay,
                self.solver,
                self.step_size,
                map(asdict, training.groups),
            )
        )

    def refuses(self, bound: BoundHyperparameter, training: TrainingConfig) -> str | None:
        if isinstance(bound, BoundRate | BoundInitScale):
            return refusals.NOT_IN_THE_MINIMUM
        return None

    def limits(self, objective: Objective) -> list[str]:
        names = [value.place.path for value in objective.parameters.carried.values if value.is_real]
        if not names:
            return []
        return [
            f"implicit takes {', '.join(names)} as constants, although training changes them: its "
            "hypergradient omits how they depend on weights and hyperparameters; use stored or "
            "replay"
        ]

    def copies(self, training: TrainingConfig) -> float:
        return 0.0

    def backward_total(self, training: TrainingConfig) -> int:
        return self.iterations

    def recorder(self, run: TrainingRun) -> "NoTrajectory":
        return NoTrajectory(run.steps)

    def order(self, run: TrainingRun, recorder: TrajectoryRecorder) -> Order:
        """One epoch after the other; the number of iterations is not known."""
        return run.epochs()

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        adjoint.begin(contraction=False)
        if float(adjoint.weights @ adjoint.weights) == 0.0:  # the solvers divide by this square
            return
        loss = EpochLoss(run, adjoint, self.damping)
        if self.solver == "neumann":
            solution = self._neumann(loss, adjoint.weights, self._step_size(run))
        else:
            solution = self._conjugate_gradient(loss, adjoint.weights)
        loss.subtract_mixed(solution)
        adjoint.finish(run.steps)

    def _conjugate_gradient(self, loss: "EpochLoss", target: Tensor) -> Tensor:
        solution = torch.zeros_like(target)
        residual, direction = target.clone(), target.clone()
        square = first = float(residual @ residual)
        for iteration in range(self.iterations):
            product = loss.product(direction)
            curvature = positive_curvature(iteration, direction, product)
            length = square / curvature
            solution.add_(direction, alpha=length)
            residual.sub_(product, alpha=length)
            before, square = square, float(residual @ residual)
            if self._reached(math.sqrt(square / first)):
                return solution
            direction.mul_(square / before).add_(residual)
        return self._accept(solution, math.sqrt(square / first))

    def _neumann(self, loss: "EpochLoss", target: Tensor, step_size: float) -> Tensor:
        solution, term = torch.zeros_like(target), target.clone()
        first = float(torch.linalg.vector_norm(target))
        norm = first
        for iteration in range(self.iterations):
            product = loss.product(term)
            positive_curvature(iteration, term, product)
            solution.add_(term, alpha=step_size)
            term.sub_(product, alpha=step_size)
            before, norm = norm, float(torch.linalg.vector_norm(term))
            if norm > before:  # η is too large: the terms grow, and the series diverges
                raise SolverNotConverged(iteration + 1, norm / first, self.tolerance)
            if self._reached(norm / first):
                return solution
        return self._accept(solution, norm / first)

    def _reached(self, residual: float) -> bool:
        return residual == 0.0 or (self.tolerance < 1.0 and residual <= self.tolerance)

    def _accept(self, solution: Tensor, residual: float) -> Tensor:
        if self.tolerance < 1.0:
            raise SolverNotConverged(self.iterations, residual, self.tolerance)
        return solution

    def _step_size(self, run: TrainingRun) -> float:
        if self.step_size is not None:
            return self.step_size
        dynamics = run.dynamics
        assert isinstance(dynamics, MomentumSGD)
        rate, decay = dynamics.learning_rate.before_schedule(0), dynamics.momentum.at(0)
        return float(rate * dynamics.gain(decay))


class NoTrajectory:
    """A recorder that keeps nothing."""

    def __init__(self, steps: int) -> None:
        self.next_step = steps + 1

    def visit(self, step: int, run: TrainingRun) -> None:
        pass


class EpochLoss:
    """The mean training loss over the minibatches of one epoch, at the current weights."""

    def __init__(self, run: TrainingRun, adjoint: Adjoint, damping: float) -> None:
        self._run = run
        self._adjoint = adjoint
        self._damping = damping

    def product(self, vector: Tensor) -> Tensor:
        """(H + μ) u, shape (P,)."""
        out = vector * -self._damping
        part = torch.zeros_like(vector)

        def use(batch: Batch, share: float) -> None:
            self._run.objective.subtract_curvature(batch, vector, part.zero_())
            out.add_(part, alpha=share)

        self._over_epoch(use)
        self._adjoint.products += 1
        self._run.monitor.advance()
        return out.neg_()

    def subtract_mixed(self, vector: Tensor) -> None:
        """dλ -= ∂/∂λ <∇_w L, u>."""
        unused = torch.zeros_like(vector)
        self._over_epoch(
            lambda batch, share: self._run.objective.subtract_product(batch, share * vector, unused)
        )
        self._adjoint.products += 1

    def _over_epoch(self, use: Callable[[Batch, float], None]) -> None:
        """Calls `use` with joined minibatches and their share of the epoch.

        `use` takes effect at its end only, so that it is repeated after a lack of memory.
        """
        held_out, workers = self._run.objective.held_out, self._run.objective.workers
        attempt = held_out.attempt
        if workers.size > 1:  # they take the same minibatches, and none of them fewer by itself
            rows = -int(workers.largest(-held_out.rows))
            attempt = lambda work: work(rows)  # noqa: E731
        start = attempt(partial(self._part, use, 0))
        while start:
            start = attempt(partial(self._part, use, start))

    def _part(self, use: Callable[[Batch, float], None], start: int, rows: int) -> int:
        self._run.monitor.poll()
        batch, share, following = self._run.epoch_part(start, rows)
        use(batch, share)
        return following


def positive_curvature(iteration: int, vector: Tensor, product: Tensor) -> float:
    """p·Hp; raises CurvatureIndefinite unless it is positive beyond rounding errors."""
    curvature = float(vector @ product)
    lengths = torch.linalg.vector_norm(vector) * torch.linalg.vector_norm(product)
    if not curvature > 8.0 * torch.finfo(vector.dtype).eps * float(lengths):
        raise CurvatureIndefinite(iteration, curvature / float(vector @ vector))
    return curvature
