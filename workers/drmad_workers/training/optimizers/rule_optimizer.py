"""The inner optimizer of an update rule: its steps, and their reverse by autograd."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError
from drmad_workers.objective.parameters.cached_parts import parts_of
from drmad_workers.training.optimizers.base import InnerOptimizer
from drmad_workers.training.optimizers.rates import Factor, Rate, part_of
from drmad_workers.update_rule import StepRates, UpdateRule


@dataclass
class RuleOptimizer(InnerOptimizer):
    """Takes the steps of an update rule, and reverses them by vector-Jacobian products.

    For m steps under one gradient, the reverse is that of the update applied m times.

    Attributes:
        rule: the update.
        learning_rate, momentum, weight_decay: see InnerOptimizer.
        shapes: those of the parameters, in the order of the flat vector.
    """

    rule: UpdateRule
    learning_rate: Rate
    momentum: Rate
    weight_decay: Rate
    shapes: Sequence[torch.Size]

    reads_gradient = True

    def __post_init__(self) -> None:
        self.memory_rows = self.rule.memory_rows
        self.path_rows = self.point_rows = 1 + self.memory_rows

    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        factors = [rate.factor(step) for rate in self.rates.values()]
        parts = parts_of(state) if self.rule.elementwise else [slice(None)]
        with torch.no_grad():
            for part in parts:
                moved, slope = state[..., part], gradient[..., part]
                own = (part_of(factor, part) for factor in factors)
                after = self.updated(step, moved.unbind(), slope, *own)
                for row, found in zip(moved, after, strict=True):
                    row.copy_(found)

    def updated(
        self,
        step: int,
        state: Sequence[Tensor],
        gradient: Tensor,
        rate: Factor,
        decay: Factor,
        weight_decay: Factor,
    ) -> Sequence[Tensor]:
        factors = (rate, decay, weight_decay)
        if self.rule.elementwise:
            weights, memory = self.rule.update(
                self.first + step, state[0], state[1:], gradient, StepRates(*factors)
            )
            return weights, *memory
        if gradient.ndim == 1:
            return self._by_parameter(step, state, gradient, factors)
        replicas = [
            self._by_parameter(step, [row[number] for row in state], one, factors)
            for number, one in enumerate(gradient)
        ]
        return [torch.stack(rows) for rows in zip(*replicas, strict=True)]

    def _by_parameter(
        self, step: int, state: Sequence[Tensor], gradient: Tensor, factors: Sequence[Factor]
    ) -> Sequence[Tensor]:
        """`updated` by a call for each parameter; the state and the gradient have shape (P,)."""
        rows = [self._parts(row) for row in (*state, gradient)]
        rates = [
            self._parts(factor) if isinstance(factor, Tensor) else [factor] * len(self.shapes)
            for factor in factors
        ]
        moved = []
        for (weights, *memory, slope), own in zip(
            zip(*rows, strict=True), zip(*rates, strict=True), strict=True
        ):
            found, kept = self.rule.update(
                self.first + step, weights, memory, slope, StepRates(*own)
            )
            moved.append([found.reshape(-1), *(row.reshape(-1) for row in kept)])
        return [torch.cat(row) for row in zip(*moved, strict=True)]

    def _parts(self, flat: Tensor) -> list[Tensor]:
        """A vector of shape (P,) as one tensor for each parameter, in its shape."""
        parts = torch.split(flat, [shape.numel() for shape in self.shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def pull_back(
        self,
        step: int,
        count: int,
        adjoint: Tensor,
        cotangent: Tensor,
        state: Tensor,
        gradient: Tensor | None = None,
        velocity_after: Tensor | None = None,
    ) -> None:
        assert gradient is not None
        points = [state]
        for j in range(step, step + count - 1):
            points.append(points[-1].clone())
            self.step(j, points[-1], gradient)
        cotangent.zero_()
        for j in range(step + count - 1, step - 1, -1):
            self._reverse(j, points[j - step], gradient, adjoint, cotangent)

    def _reverse(
        self, step: int, state: Tensor, gradient: Tensor, adjoint: Tensor, cotangent: Tensor
    ) -> None:
        """`pull_back` of one step; adds to u."""
        rows = len(state)
        inputs = [row.detach().requires_grad_() for row in (*state, gradient)]
        factors: list[Factor] = []
        tuned: list[Rate] = []
        for rate in self.rates.values():
            factor = rate.factor(step)
            if rate.total is not None:
                factor = torch.zeros_like(gradient).add_(factor).requires_grad_()
                inputs.append(factor)
                tuned.append(rate)
            factors.append(factor)
        with torch.enable_grad():
            after = self.updated(step, inputs[:rows], inputs[rows], *factors)
        moving = [pair for pair in zip(after, adjoint, strict=True) if pair[0].requires_grad]
        outputs, slopes = zip(*moving, strict=True)
        found = torch.autograd.grad(
            outputs, inputs, slopes, allow_unused=True, materialize_grads=True
        )
        adjoint.copy_(torch.stack(found[:rows]))
        cotangent.sub_(found[rows])
        for rate, derivative in zip(tuned, found[rows + 1 :], strict=True):
            rate.gather(step, derivative)


def require_rule(rule: UpdateRule, shapes: Sequence[torch.Size], like: Tensor) -> None:
    """Tries a rule on a first step of drawn numbers.

    Args:
        rule: the rule.
        shapes: those of the parameters.
        like: a tensor of the device and the type of the weights.
    Raises:
        ProblemError: the result has other shapes, the rule writes into its arguments, nothing
            differentiates through it, or it mixes entries and says that it is elementwise.
    """
    size = sum(shape.numel() for shape in shapes)
    draw = torch.Generator().manual_seed(0)
    drawn = torch.rand(2 + rule.memory_rows, size, generator=draw).to(like)
    dynamics = RuleOptimizer(rule, Rate(0.5), Rate(0.5), Rate(0.25), shapes)
    inputs = drawn.clone().requires_grad_()

    def moved(part: slice) -> Sequence[Tensor]:
        weights, *memory, gradient = inputs[:, part]
        with torch.enable_grad():
            after = dynamics.updated(0, [weights, *memory], gradient, 0.5, 0.5, 0.25)
        expected = [weights.shape] * (1 + rule.memory_rows)
        found = [row.shape for row in after]
        _require(found == expected, f"must return shapes {expected}, got {found}", SHAPES)
        return after

    whole = moved(slice(None))
    _require(torch.equal(inputs.detach(), drawn), "must not write into its arguments", IN_PLACE)
    _require(whole[0].requires_grad, "must be differentiable, got detached weights", DETACHED)
    if rule.elementwise and size > 1:
        halves = zip(moved(slice(size // 2)), moved(slice(size // 2, None)), strict=True)
        same = all(
            torch.allclose(torch.cat(half), row, rtol=1e-3, atol=1e-5)
            for half, row in zip(halves, whole, strict=True)
        )
        _require(same, "must act on each entry by itself where elementwise is True", MIXING)


SHAPES = "return the weights and memory_rows tensors of their shape"
IN_PLACE = "write m = b * m + g in place of m.mul_(b).add_(g)"
DETACHED = "leave out detach(), .data and no_grad() in update"
MIXING = "set elementwise = False; update is then called for each parameter in its shape"


def _require(holds: bool, what: str, remedy: str) -> None:
    if not holds:
        raise ProblemError(f"update of the optimizer {what}: {remedy}", "optimizer")
