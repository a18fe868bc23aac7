"""Penalties on the weights: `L2` and `L1`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from drmad_client.export.pytorch import unit_shapes
from drmad_client.spec import defaults
from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import (
    BoundHyperparameter,
    Group,
    Setting,
    require_one_of,
)

Per = Literal["weight", "unit", "layer", "model"]


class Block(NamedTuple):
    """One penalised parameter: `view` is its shape, `keep` the shape of its penalties.

    `keep` broadcasts to `view`; `start`, `stop` bound the weights in the flat vector, `first`,
    `last` the penalties in λ.
    """

    start: int
    stop: int
    view: tuple[int, ...]
    keep: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True)
class BoundPenalty(BoundHyperparameter):
    """Σ_u e^{λ_u} Σ_{j in u} |w_j|^k, k = `power`; see penalties.py for its derivatives."""

    power: int
    blocks: Sequence[Block]

    def spread(self, value: Tensor, coefficients: Tensor) -> None:
        """Adds e^{λ_u(j)} for every weight j to `coefficients`, shape (..., P)."""
        leading = coefficients.shape[:-1]
        for start, stop, view, keep, first, last in self.blocks:
            target = coefficients[..., start:stop].view(*leading, *view)
            target.add_(value[..., first:last].view(*leading, *keep))

    def gather(self, products: Tensor) -> Tensor:
        """Σ_{j in u} products_j for every penalty u, from shape (P,) to the shape of λ."""
        out = torch.zeros(self.shape, dtype=products.dtype, device=products.device)
        for start, stop, view, keep, first, last in self.blocks:
            summed = products[start:stop].view(view).sum_to_size(keep)
            out[first:last].add_(summed.reshape(-1))
        return out


@dataclass(frozen=True)
class Penalty:
    """Log penalties λ: the training loss gains Σ_u e^{λ_u} Σ_{j in u} |w_j|^k.

    Parameters with fewer than two dimensions (biases, scales of normalisation) are not penalised.

    Attributes:
        per: one λ per "weight"; per "unit", which means per *input* unit of each weight matrix
            (a column of torch's (out, in), a row of an embedding) and per input channel of a
            convolution, as the papers do; per "layer", that is per weight matrix; or one for
            the whole "model".
        init: the log penalty to start from.
        lower, upper: bounds of λ.
    """

    name: str
    per: Per = defaults.Kinds.penalty_per
    init: float = defaults.Kinds.log_penalty
    lower: float | None = None
    upper: float | None = None

    power: ClassVar[int]

    def bind(self, setting: Setting) -> BoundHyperparameter:
        penalised = [slot for slot in setting.slots if len(slot.shape) >= 2]
        if not penalised:
            raise ProblemError(
                f"{self.name} needs a trainable parameter of two or more dimensions (biases are "
                "not penalised), and the model has none",
                f"hyperparameters.{self.name}",
            )
        require_one_of(get_args(Per), self.per, self.name)
        blocks: list[Block] = []
        groups: list[Group] = []
        first = 0
        for slot in penalised:
            view, keep = (
                unit_shapes(slot.module, tuple(slot.shape))
                if self.per == "unit"
                else (tuple(slot.shape), ())
            )
            if self.per == "weight":
                keep = view
            last = first + math.prod(keep)
            keep = keep or (1,) * len(view)
            blocks.append(Block(slot.start, slot.stop, view, keep, first, last))
            if self.per != "model":
                groups.append(Group(slot.name, first, last))
                first = last
        if self.per == "model":
            groups = [Group("model", 0, 1)]
        initial = torch.full((groups[-1].stop,), self.init, dtype=setting.dtype)
        return BoundPenalty(
            self.name, initial, "exp", self.lower, self.upper, groups, self.power, blocks
        )


@dataclass(frozen=True)
class L2(Penalty):
    """Weight decay: Σ_u e^{λ_u} Σ_{j in u} w_j², see Penalty."""

    name: str = "l2"
    power: ClassVar[int] = 2


@dataclass(frozen=True)
class L1(Penalty):
    """Lasso: Σ_u e^{λ_u} Σ_{j in u} |w_j|, see Penalty.

    Its gradient is e^λ sign w, 0 at the kink w = 0; the kinks that a weight crosses in training
    have no part in the hypergradient.
    """

    name: str = "l1"
    power: ClassVar[int] = 1
