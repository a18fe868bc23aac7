"""Scores of training rows from gradients of one trained net: TracIn and influence functions.

[Pruthi2020] Estimating training data influence by tracing gradient descent, 2002.08484.
[Koh2017] Understanding black-box predictions via influence functions, 1703.04730, with the
Gauss-Newton matrix in the place of the Hessian, as [Grosse2023], 2308.03296.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp
from torch.nn.functional import cross_entropy

Weights = dict[str, Tensor]

SOLVER_STEPS = 50


def weights_of(net: nn.Module) -> Weights:
    """A copy of the net's parameters."""
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


class Losses:
    """The losses of a classifier as functions of its weights.

    Attributes:
        net: whose parameters' values have no part.
        train, valid: (inputs, labels).
        weight: of every training row in the training loss.
    """

    def __init__(
        self,
        net: nn.Module,
        train: tuple[Tensor, Tensor],
        valid: tuple[Tensor, Tensor],
        weight: float = 1.0,
    ) -> None:
        self.net, self.train, self.valid, self.weight = net, train, valid, weight

    def outputs(self, weights: Weights, inputs: Tensor) -> Tensor:
        found: Tensor = functional_call(self.net, weights, (inputs,))
        return found

    def validation(self, weights: Weights) -> Tensor:
        inputs, labels = self.valid
        return cross_entropy(self.outputs(weights, inputs), labels)

    def along(
        self, weights: Weights, direction: Weights, rows: Tensor | slice = slice(None)
    ) -> Tensor:
        """<∇ℓ_i, direction> of every training row, or of those at `rows`, shape (rows,)."""
        inputs, labels = self.train[0][rows], self.train[1][rows]

        def losses(at: Weights) -> Tensor:
            return cross_entropy(self.outputs(at, inputs), labels, reduction="none")

        found: Tensor = jvp(losses, (weights,), (direction,))[1]
        return found

    def gauss_newton(self, weights: Weights, direction: Weights) -> Weights:
        """The Gauss-Newton matrix of the training loss times a vector."""
        inputs, labels = self.train

        def outputs(at: Weights) -> Tensor:
            return self.outputs(at, inputs)

        values, tangent = jvp(outputs, (weights,), (direction,))[:2]

        def loss_gradient(at: Tensor) -> Tensor:
            found: Tensor = grad(lambda z: self.weight * cross_entropy(z, labels))(at)
            return found

        curved = jvp(loss_gradient, (values,), (tangent,))[1]
        back = vjp(outputs, weights)[1]
        (product,) = back(curved)
        return dict(product)


def tracin(losses: Losses, checkpoints: Iterable[tuple[Weights, float]]) -> Tensor:
    """What each row adds to the validation loss: -Σ_k η_k <∇ℓ_i, ∇f> [Pruthi2020].

    Args:
        checkpoints: weights of the training run with the learning rate there.
    """
    total = torch.zeros(len(losses.train[1]))
    for weights, rate in checkpoints:
        total -= rate * losses.along(weights, grad(losses.validation)(weights))
    return total


def influence(losses: Losses, weights: Weights, damping: float) -> Tensor:
    """What each row adds to the validation loss: -<∇ℓ_i, (G + damping)⁻¹ ∇f> [Koh2017]."""
    gradient = grad(losses.validation)(weights)
    return -losses.along(weights, _solve(losses, weights, gradient, damping))


def _solve(losses: Losses, weights: Weights, right: Weights, damping: float) -> Weights:
    """(G + damping)⁻¹ right by conjugate gradients."""

    def dot(one: Weights, other: Weights) -> float:
        return float(sum((one[name] * other[name]).sum() for name in one))

    solved = {name: torch.zeros_like(part) for name, part in right.items()}
    residual = {name: part.clone() for name, part in right.items()}
    direction, squared = dict(residual), dot(right, right)
    first = squared
    for _ in range(SOLVER_STEPS):
        product = losses.gauss_newton(weights, direction)
        product = {name: product[name] + damping * direction[name] for name in direction}
        step = squared / dot(direction, product)
        solved = {name: solved[name] + step * direction[name] for name in solved}
        residual = {name: residual[name] - step * product[name] for name in residual}
        before, squared = squared, dot(residual, residual)
        if squared < 1e-10 * first:
            break
        direction = {
            name: residual[name] + squared / before * direction[name] for name in direction
        }
    return solved
