"""The weight decay of the inner optimizer.

[Loshchilov2019] Decoupled weight decay regularization, 1711.05101.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch

from drmad_client.spec import defaults
from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter, Group, Setting, require_one_of
from drmad_workers.hyperparameters.rates import BoundRate

PerGroup = Literal["model", "layer", "group"]

LEAST_START = 1e-4
"""Where the training has no weight decay, its logarithm must start from some number."""


@dataclass(frozen=True)
class WeightDecay:
    """λ = log ω: SGD and Adam add ω w to the gradient; AdamW takes w *= 1 - α ω ([Loshchilov2019]).

    Attributes:
        per: one λ for the "model", per "layer" (parameter tensor), or per "group" of layers.
        groups: patterns over parameter names, such as "*.bias"; a layer belongs to the first that
            matches. A layer that none matches keeps the training's own weight decay.
        init: log ω to start from; None takes the training's own, but at least LEAST_START.
        lower, upper: bounds of λ.
    """

    name: str = "weight_decay"
    per: PerGroup = defaults.Kinds.weight_decay_per
    groups: Sequence[str] = ()
    init: float | None = None
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        require_one_of(get_args(PerGroup), self.per, self.name)
        if (self.per == "group") != bool(self.groups):
            raise ProblemError(
                f"{self.name}: groups must be given with per: group, and only there, got "
                f"{list(self.groups)} with per: {self.per}",
                f"hyperparameters.{self.name}.groups",
            )
        names = [slot.name for slot in setting.slots]
        rows = None
        labels = ["model"]
        if self.per == "layer":
            labels = names
        elif self.per == "group":
            labels = list(self.groups)
            rows = torch.tensor([self._group(name) for name in names])
            self._require_members(rows.tolist(), names)
        own = math.log(max(setting.weight_decay, LEAST_START))
        init = own if self.init is None else self.init
        return BoundRate(
            self.name,
            torch.full((len(labels),), init, dtype=setting.dtype),
            "exp",
            self.lower,
            self.upper,
            [Group(label, i, i + 1) for i, label in enumerate(labels)],
            "weight_decay",
            (len(labels), 1),
            rows,
        )

    def _group(self, name: str) -> int:
        """The first pattern that matches, -1 for none."""
        matches = (i for i, pattern in enumerate(self.groups) if fnmatchcase(name, pattern))
        return next(matches, -1)

    def _require_members(self, rows: Sequence[int], names: Sequence[str]) -> None:
        for index, pattern in enumerate(self.groups):
            if index not in rows:
                raise ProblemError(
                    f"{self.name}: the pattern {pattern!r} must be the first to match some "
                    f"parameter, and it is for none of {', '.join(names)}",
                    f"hyperparameters.{self.name}.groups",
                )
