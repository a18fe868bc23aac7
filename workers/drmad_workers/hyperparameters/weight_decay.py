"""The weight decay of the inner optimizer.

[Loshchilov2019] Decoupled weight decay regularization, 1711.05101.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from drmad_client.spec import defaults
from drmad_workers.hyperparameters.base import BoundHyperparameter, Setting, require_one_of
from drmad_workers.hyperparameters.rates import bind_rate

PerGroup = Literal["model", "layer", "group"]

LEAST_START = 1e-4
"""Where the training has no weight decay, its logarithm must start from some number."""


@dataclass(frozen=True)
class WeightDecay:
    """λ = log ω: SGD and Adam add ω w to the gradient; AdamW takes w *= 1 - α ω ([Loshchilov2019]).

    Attributes:
        per: one λ for the "model", per "layer" (parameter tensor), or per "group" of layers.
        groups: see LearningRate.
        init: log ω to start from; None takes the weight decay that the layers have in training, but
            at least LEAST_START.
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
        return bind_rate(self, "weight_decay", "exp", log_decay, setting.weight_decay, setting)


def log_decay(weight_decay: float) -> float:
    """log ω, but at least that of LEAST_START."""
    return math.log(max(weight_decay, LEAST_START))
