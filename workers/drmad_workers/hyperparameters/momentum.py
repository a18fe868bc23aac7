"""The momentum of the inner optimizer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from drmad_client.spec import defaults
from drmad_workers.hyperparameters.base import BoundHyperparameter, Setting
from drmad_workers.hyperparameters.rates import PerStep, bind_rate


@dataclass(frozen=True)
class Momentum:
    """γ_t = σ(λ), the momentum of the inner optimizer; of Adam its β₁.

    Attributes:
        per, groups: see LearningRate.
        init: the logit to start from; None takes the momentum that the layers have in training, but
            at least 0.01, as no logit is that of 0.
        lower, upper: bounds of λ.
    """

    name: str = "momentum"
    per: PerStep = defaults.Kinds.rate_per
    groups: Sequence[str] = ()
    init: float | None = None
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        return bind_rate(self, "momentum", "sigmoid", logit, setting.momentum, setting)


def logit(momentum: float) -> float:
    """The logit of a momentum, but at least that of 0.01."""
    own = max(momentum, 0.01)
    return math.log(own / (1.0 - own))
