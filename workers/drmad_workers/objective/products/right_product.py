"""Which product with second derivatives is right for the code of a problem.

The exact product differentiates the gradient once more. It is wrong where autograd's graph is not
that of the gradient: a number that Python read from a tensor, or a custom function whose backward
pass reads what its forward pass saved outside of autograd. The finite-difference product
needs no graph. It takes ∂/∂w of <∇_w L, u> for the derivative of ∇L along u, and these are equal
only if the Jacobian of what `backward` returns is symmetric, as that of a gradient is.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from drmad_workers import trees
from drmad_workers.errors import ProblemError
from drmad_workers.objective.autograd.cuts import through_cuts
from drmad_workers.objective.autograd.differentiable_forward import DifferentiableForward
from drmad_workers.objective.checks import central_differences
from drmad_workers.objective.checks.central_differences import Comparison, has_kinks
from drmad_workers.objective.checks.repeatability import described_loss
from drmad_workers.objective.objective import Objective
from drmad_workers.objective.parameters.carried import ModelWatch
from drmad_workers.objective.parameters.flat_parameters import trainable
from drmad_workers.objective.plain_objective import PlainObjective, borrowed
from drmad_workers.objective.products.product import Hvp
from drmad_workers.problem import Batch

SEED = 0
"""The seed of the directions."""
ROUNDING = 10.0
"""The rounding of <u, g>, in units of the precision times |u| |g|."""


def right_product(objective: Objective, batch: Batch) -> Hvp | None:
    """The product that is right on the batch at the current weights: "exact" where it is.

    The weights are moved in float64 where the model allows it. Where kinks or rounding let no
    difference decide, "exact" is returned. The model is left as it was.

    Returns:
        None if neither product is right.
    """
    for dtype in (torch.float64, objective.parameters.dtype):
        try:
            return _right_product(objective, batch, dtype)
        except (RuntimeError, TypeError, ValueError):
            if dtype == objective.parameters.dtype:
                raise
    return None


def chosen_product(objective: Objective, batch: Batch, stated: Hvp, is_free: bool) -> Hvp:
    """The product to use: the stated one, unless it is suspect and wrong on the batch.

    Args:
        objective: the objective, with `inner.is_suspect` found by a product.
        batch: a minibatch of the training.
        stated: the product that the method states.
        is_free: whether finite differences may take its place where they are right.
    Raises:
        ProblemError: the exact product is wrong, and no other may or can take its place.
    """
    if stated != "exact" or not objective.inner.is_suspect:
        return stated
    found = right_product(objective, batch)
    if found == "exact" or (found is not None and is_free):
        return found
    what, field = described_loss(objective, "inner_loss")
    if found is not None:
        raise ProblemError(
            f"{what} must have second derivatives that autograd finds, and they differ from the "
            "differences of two gradients, which are right: use hvp finite_difference",
            "hypergradient.hvp",
        )
    raise ProblemError(
        f"{what} must have second derivatives that autograd finds, and they differ from the "
        "differences of two gradients: a number that Python or NumPy reads from a tensor (item, "
        "float, tolist, numpy), or a function with a backward pass of its own, hides a part; keep "
        "such a number a tensor (x.std().detach()), and derive the backward pass by autograd",
        field,
    )


def _right_product(objective: Objective, batch: Batch, dtype: torch.dtype) -> Hvp | None:
    with borrowed(objective.parameters.model, dtype), objective.parameters.same_noise():
        field = GradientField(objective, batch, dtype)
        (cotangent, _), (weights, values) = field.direction(SEED), field.direction(SEED + 1)
        ways = ((weights, field.still()), (torch.zeros_like(weights), values))
        if all(field.exact_product(cotangent, way).outcome != "differs" for way in ways):
            return "exact"
        if all(field.symmetry(cotangent, way).outcome != "differs" for way in ways):
            return "finite_difference"
        return None


Direction = tuple[Tensor, Mapping[str, Tensor]]
"""A direction of the weights, shape (P,), and one of the values by name."""


class GradientField:
    """What `backward` returns on a batch, as a function of the weights and of transform(λ).

    Attributes:
        batch: the batch.
        values: transform(λ) by name.
        gradients: the number of gradients that comparisons may still take.
    """

    def __init__(self, objective: Objective, batch: Batch, dtype: torch.dtype) -> None:
        """The model must have the type `dtype` already."""
        content = trees.mapped_tensors(lambda tensor: _as(dtype, tensor), batch.content)
        self.batch = Batch(content, batch.index)
        self.values = {name: _as(dtype, v) for name, v in objective.values.by_name.items()}
        self._parameters = objective.parameters
        self._is_opaque = objective.inner.is_opaque
        self._plain = PlainObjective(objective, dtype)
        self._dtype = dtype
        self._weights = self._plain.weights()
        self._state = ModelWatch(objective.parameters.held)
        self.gradients = math.inf
        self._size = float(torch.linalg.vector_norm(self._gradient(self._weights, self.values)[0]))
        self._kinks = has_kinks(self._loss(self.values))

    def direction(self, seed: int) -> Direction:
        """A random direction, as long as the weights, and as each value, are."""
        draw = torch.Generator().manual_seed(seed)

        def like(tensor: Tensor) -> Tensor:
            drawn = torch.randn(tensor.shape, generator=draw, dtype=torch.float64).to(tensor)
            length = (1.0 + torch.linalg.vector_norm(tensor)) / torch.linalg.vector_norm(drawn)
            scaled: Tensor = drawn * length
            return scaled

        return like(self._weights), {name: like(value) for name, value in self.values.items()}

    def still(self) -> dict[str, Tensor]:
        """The direction that moves no value."""
        return {name: torch.zeros_like(value) for name, value in self.values.items()}

    def restore(self) -> None:
        """Puts the state back, and removes what `backward` accumulated."""
        self._state.restore()
        for parameter in trainable(self._plain.model):
            parameter.grad = None

    def exact_product(self, cotangent: Tensor, moved: Direction) -> Comparison:
        """d<u, g> along a direction, by differentiating <u, g> once more, against differences."""
        leaves = {n: v.detach().clone().requires_grad_() for n, v in self.values.items()}
        weights = list(self._plain.parameters().values())
        inputs = [*weights, *leaves.values()]
        mode = DifferentiableForward(self._state.as_carried())
        with nullcontext() if self._is_opaque else mode:
            gradients = torch.autograd.grad(
                self._loss(leaves), weights, create_graph=True, materialize_grads=True
            )
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        expected = 0.0
        if flat.requires_grad:
            try:
                with through_cuts():
                    second = torch.autograd.grad(flat, inputs, cotangent, materialize_grads=True)
            except (RuntimeError, NotImplementedError):  # a kernel that is differentiable once
                return Comparison("differs", math.nan, math.nan)
            ends = torch.cat([moved[0], *(moved[1][name].reshape(-1) for name in leaves)])
            expected = float(torch.cat([part.reshape(-1) for part in second]) @ ends)
        return self.compare(expected, cotangent, moved)

    def symmetry(self, cotangent: Tensor, moved: Direction) -> Comparison:
        """d<u, g> along (v, e) against d<(v, e), (g, ∂L/∂λ)> along u, both by differences."""
        distance = 1e-6 if self._dtype == torch.float64 else 1e-2
        expected = self._difference(moved, (cotangent, self.still()), distance)
        return self.compare(expected, cotangent, moved)

    def compare(
        self,
        expected: float,
        cotangent: Tensor,
        moved: Direction,
        scale: float = 0.0,
        tolerance: float | None = None,
    ) -> Comparison:
        """A value of d<u, g> along a direction against its central differences.

        Args:
            expected: the value.
            cotangent: u, shape (P,).
            moved: the direction.
            scale, tolerance: see central_differences.compare.
        """
        length = float(torch.linalg.vector_norm(cotangent))
        return central_differences.compare(
            expected,
            lambda distance: self._difference((cotangent, self.still()), moved, distance),
            self._dtype,
            ROUNDING * torch.finfo(self._dtype).eps * self._size * length,
            scale,
            tolerance,
            self._kinks,
        )

    def _difference(self, measured: Direction, moved: Direction, distance: float) -> float:
        """The change of <measured, (g, ∂L/∂λ)> per distance along `moved`.

        It is nan once no gradients are left.
        """
        if self.gradients <= 0:
            return math.nan
        total = 0.0
        for sign in (1.0, -1.0):
            weights = self._weights + sign * distance * moved[0]
            values = {n: v + sign * distance * moved[1][n] for n, v in self.values.items()}
            by_weights, by_values = self._gradient(weights, values)
            total += sign * float(by_weights @ measured[0])
            for name, part in measured[1].items():
                total += sign * float((by_values[name] * part).sum())
        return total / (2.0 * distance)

    def _gradient(
        self, weights: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.gradients -= 1
        self._plain.set_weights(weights)
        self.restore()
        with self._parameters.same_noise():
            found = self._plain.gradient(values, self.batch)
        self._plain.set_weights(self._weights)
        return found

    def _loss(self, values: Mapping[str, Tensor]) -> Tensor:
        self.restore()
        with self._parameters.same_noise():
            return self._plain.training_loss(values, self.batch)


def _as(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor
