"""The exact hypergradient in forward mode, for a small number of hyperparameters.

[Franceschi2017] Forward and reverse gradient-based hyperparameter optimization, 1703.01785.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from drmad_client.spec import refusals
from drmad_workers.data.pass_order import Order
from drmad_workers.errors import HypergradientDiverged
from drmad_workers.hypergradients.method import GROWTH_BOUND, Adjoint, Method, require_none
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.objective.parameters.initial_weights import initial_along
from drmad_workers.objective.products.tangents import gradient_along
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.optimizers import Factor, Rate
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder


@dataclass(frozen=True)
class Forward(Method):
    """Propagates one tangent per hyperparameter entry along with the training [Franceschi2017].

        Z_{t+1} = ∂Φ_t/∂(w, v) Z_t + ∂Φ_t/∂λ,    Z_0 = ∂(w_0, v_0)/∂λ,    dλ = ∂f/∂λ + Z_Tᵀ ∇f(w_T)

    where Φ_t is step t of the inner optimizer, and D the number of entries of λ. The method is
    exact. It keeps nothing of the trajectory, and ends together with the training.

    Cost: T D Hessian-vector products, batched over the D tangents.
    Memory: D tangents of the state, each 2 copies of the weights (3 for Adam), and about as much
    again during a step; independent of T.
    """

    name: ClassVar[str] = "forward"

    @property
    def takes_part(self) -> bool:
        return True

    def check(self, training: TrainingConfig) -> None:
        require_none(refusals.forward_refusals(self.hvp))

    def refuses(self, bound: BoundHyperparameter, training: TrainingConfig) -> str | None:
        return refusals.too_many_tangents(bound.initial.numel())

    def trajectory_bytes(self, run: TrainingRun, training: TrainingConfig) -> int:
        """Those of the tangents, and of their derivatives during a step."""
        bound = run.objective.values.bound.values()
        return 2 * sum(each.initial.numel() for each in bound) * run.state.nbytes

    def recorder(self, run: TrainingRun) -> "Tangents":
        return Tangents(run)

    def backward_total(self, training: TrainingConfig) -> int:
        return 1

    def order(self, run: TrainingRun, recorder: TrajectoryRecorder) -> Order:
        return run.order(())

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        assert isinstance(recorder, Tangents)
        adjoint.begin(contraction=False)
        tangents = recorder.state[0]
        run.objective.sums.add_flat(tangents @ adjoint.state[0])
        adjoint.weights.zero_()  # the tangents already include the dependence of w_0 on λ
        adjoint.products = run.steps * len(tangents)
        run.monitor.advance()


class Tangents:
    """The tangents Z_t = ∂(w_t, v_t)/∂λ, which advance with the training.

    Attributes:
        state: Z_t, shape (1 + S, D, P + Q), for S further rows of the optimizer's state; behind
            the weights lie the carried values.
    """

    def __init__(self, run: TrainingRun) -> None:
        objective = run.objective
        bound = objective.values.bound
        sizes = [hyperparameter.initial.numel() for hyperparameter in bound.values()]
        basis = torch.eye(sum(sizes), dtype=run.state.dtype, device=run.state.device)
        columns = torch.split(basis, sizes, dim=1)
        self._values = {
            name: part.reshape(len(basis), *bound[name].shape)
            for name, part in zip(bound, columns, strict=True)
        }
        self._rates: dict[str, Tensor] = {
            hyperparameter.role: hyperparameter.directions(self._values[name])
            for name, hyperparameter in bound.items()
            if isinstance(hyperparameter, BoundRate)
        }
        self.state = run.state.new_zeros(len(run.state), len(basis), run.state.shape[1])
        count, size = run.optimizer_state.shape[1], objective.parameters.carried.size
        self._optimizer_state = self.state[..., :count]
        self._weights = self._optimizer_state[0]
        self._carried = self.state[0][:, self.state.shape[-1] - size :]
        self._bound = math.inf
        self._check_every = 1 if run.state.device.type == "cpu" else 50
        self.next_step = 0

    def visit(self, step: int, run: TrainingRun) -> None:
        """Advances the tangents through `step`, before the training takes the step.

        Raises:
            HypergradientDiverged: the tangents exceed their bound, or are not finite.
        """
        objective = run.objective
        if step == 0:
            objective.begin_products()
            self._weights.copy_(initial_along(objective, self._values))
        gradient, along = self._gradient_along(step, run)
        if run.clip is not None:
            gradient, along = run.clip.clipped(gradient), run.clip.product(gradient, along)
        self._push(step, run, gradient, along)
        last = step == run.steps - 1
        self.next_step = step + 1 if not last else run.steps + 1
        if step % self._check_every == 0 or last:
            self._check(step, run)

    def _gradient_along(self, step: int, run: TrainingRun) -> tuple[Tensor, Tensor]:
        """The gradient and its derivatives along Z, means over the minibatches of the step.

        Shapes (P,) and (D, P). Moves the directions of the carried values through the step.
        """
        parameters, parts = run.objective.parameters, run.parts(step)
        gradient, along = torch.zeros_like(parameters.weights), torch.zeros_like(self._weights)
        before = [parameters.carried_flat.clone()]
        if parameters.carried and len(parts) > 1:
            _, before = run.mean_gradient(step, 1, 1, gradient.clone())
        for number, first in enumerate(parts):
            if parameters.carried:
                parameters.carried_flat.copy_(before[number])
                parameters.load_carried()
            found = gradient_along(
                run.objective.inner, run.batch(first), self._weights, self._carried, self._values
            )
            gradient.add_(found.gradient, alpha=1.0 / len(parts))
            along.add_(found.along, alpha=1.0 / len(parts))
            self._carried.copy_(found.carried)
        parameters.carried_flat.copy_(before[0])
        return gradient, along

    def _push(self, step: int, run: TrainingRun, gradient: Tensor, along: Tensor) -> None:
        """Z <- the directional derivatives of the update along Z, the gradient and the rates.

        They are the derivative by u of the vector-Jacobian product with u, which is linear in it.
        """
        dynamics, rows = run.dynamics, len(run.optimizer_state)
        inputs = [row.detach().requires_grad_() for row in (*run.optimizer_state, gradient)]
        tangents = [*self._optimizer_state, along]
        factors: list[Factor] = []
        for role, rate in dynamics.rates.items():
            factor = rate.factor(step)
            if role in self._rates:
                factor = torch.zeros_like(gradient).add_(factor).requires_grad_()
                inputs.append(factor)
                tangents.append(self._rate_directions(role, rate, step).expand_as(along))
            factors.append(factor)
        with torch.enable_grad():
            after = dynamics.updated(step, inputs[:rows], inputs[rows], *factors)
            moving = [number for number, row in enumerate(after) if row.requires_grad]
            vectors = [torch.zeros_like(gradient).requires_grad_() for _ in moving]
            slopes = torch.autograd.grad(
                [after[number] for number in moving],
                inputs,
                vectors,
                create_graph=True,
                allow_unused=True,
            )
        pairs = [
            (slope, tangent)
            for slope, tangent in zip(slopes, tangents, strict=True)
            if slope is not None and slope.requires_grad
        ]
        outputs, directions = zip(*pairs, strict=True)
        pushed = torch.autograd.grad(
            outputs, vectors, directions, is_grads_batched=True, allow_unused=True
        )
        self._optimizer_state.zero_()
        for number, row in zip(moving, pushed, strict=True):
            if row is not None:
                self._optimizer_state[number].copy_(row)

    def _rate_directions(self, role: str, rate: Rate, step: int) -> Tensor:
        """The derivatives of the rate of a step by λ, shape (D, P or 1)."""
        column = self._rates[role][:, :, step if rate.per_step else 0]
        if rate.factors is not None:
            column = column * rate.factors[step]
        if rate.per_layer:
            counts = torch.tensor(rate.sizes, device=column.device)
            column = torch.repeat_interleave(column, counts, dim=1)
        return column

    def _check(self, step: int, run: TrainingRun) -> None:
        norm = float(torch.linalg.vector_norm(self._weights))
        if not norm <= self._bound or not math.isfinite(norm):
            raise HypergradientDiverged(step, norm, self._bound, what="tangent")
        # A tangent of the size of rounding errors sets no bound: the exact tangent is zero in the
        # first step of Adam, which does not depend on the momentum.
        rounding = 1e3 * torch.finfo(run.state.dtype).eps * float(run.state[0].norm())
        if self._bound == math.inf and norm > rounding:
            # Tangents that do not grow through a step still add up over the steps.
            self._bound = GROWTH_BOUND * run.steps * norm
