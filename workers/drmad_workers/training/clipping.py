"""Gradient clipping as torch.nn.utils has it, and its derivative.

The clipped gradient is a function c(g) of the gradient g of the loss with its penalties; weight
decay comes after it, inside the step of the optimizer. The Jacobian of c is symmetric, so that one
product serves the reverse and the tangents. At a kink it is that of one of the two sides.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-6
"""What clip_grad_norm_ adds to the norm."""


@dataclass(frozen=True)
class Clip(ABC):
    """Bounds gradients, shape (..., P); every replica has a norm of its own.

    Attributes:
        limit: the largest norm, or the largest magnitude of an entry.
    """

    limit: float

    @abstractmethod
    def apply(self, gradient: Tensor) -> Tensor:
        """Clips in place; returns where something was clipped, shape (...)."""

    @abstractmethod
    def product(self, gradient: Tensor, directions: Tensor) -> Tensor:
        """∂c/∂g at the gradient before clipping, times directions, each of shape (..., P)."""

    def clipped(self, gradient: Tensor) -> Tensor:
        """c(g), a new tensor."""
        out = gradient.clone()
        self.apply(out)
        return out


class NormClip(Clip):
    """c(g) = g min(1, limit / (|g| + 1e-6)), as clip_grad_norm_ over all parameters together."""

    def apply(self, gradient: Tensor) -> Tensor:
        _, scale = self._scale(gradient)
        gradient.mul_(scale)
        return scale[..., 0] < 1.0

    def product(self, gradient: Tensor, directions: Tensor) -> Tensor:
        """s (u - g <g, u> / (|g| (|g| + 1e-6))) for s < 1, and u elsewhere."""
        norm, scale = self._scale(gradient)
        along = (gradient * directions).sum(-1, keepdim=True)
        squared = norm * (norm + EPSILON)
        radial = along / squared.clamp_min(torch.finfo(norm.dtype).tiny)
        return torch.where(scale < 1.0, scale * (directions - radial * gradient), directions)

    def _scale(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        return norm, (self.limit / (norm + EPSILON)).clamp_max(1.0)


class ValueClip(Clip):
    """c(g) = min(max(g, -limit), limit) by entry, as clip_grad_value_."""

    def apply(self, gradient: Tensor) -> Tensor:
        beyond = (gradient.abs() > self.limit).any(-1)
        gradient.clamp_(-self.limit, self.limit)
        return beyond

    def product(self, gradient: Tensor, directions: Tensor) -> Tensor:
        return directions * (gradient.abs() <= self.limit)
