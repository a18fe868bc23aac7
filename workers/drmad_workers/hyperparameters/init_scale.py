"""The scale of the initial weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drmad_client.spec import defaults
from drmad_workers.hyperparameters.base import BoundHyperparameter, Group, Setting


@dataclass(frozen=True)
class BoundInitScale(BoundHyperparameter):
    """w_0 = e^{λ_l} × the drawn w_0 of layer l; shape (L,)."""

    sizes: Sequence[int]

    def multiply(self, value: Tensor, weights: Tensor) -> None:
        for scale, part in zip(value, torch.split(weights, list(self.sizes)), strict=True):
            part.mul_(scale)

    def spread(self, factors: Tensor, weights: Tensor, out: Tensor) -> None:
        """out += factor × weights by layer; shapes (D, L), (P,) and (D, P)."""
        parts = torch.split(out, list(self.sizes), dim=1)
        drawn = torch.split(weights, list(self.sizes))
        for part, factor, layer in zip(parts, factors.unbind(1), drawn, strict=True):
            part.add_(factor[:, None] * layer)

    def gather(self, products: Tensor) -> Tensor:
        """Sums by layer, from shape (P,) to (L,)."""
        return torch.stack([part.sum() for part in torch.split(products, list(self.sizes))])


@dataclass(frozen=True)
class InitScale:
    """w_0 = e^{λ_l} × the drawn w_0, one λ_l per layer (parameter tensor).

    Attributes:
        init: the log scale to start from; 0 keeps the weights as they are drawn.
        lower, upper: bounds of λ.
    """

    name: str = "init_scale"
    init: float = defaults.Kinds.log_init_scale
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        slots = setting.slots
        groups = [Group(slot.name, i, i + 1) for i, slot in enumerate(slots)]
        initial = torch.full((len(slots),), self.init, dtype=setting.dtype)
        sizes = [slot.stop - slot.start for slot in slots]
        return BoundInitScale(self.name, initial, "exp", self.lower, self.upper, groups, sizes)
