"""The momentum of the inner optimizer."""

import math
from dataclasses import dataclass

from drmad_client.spec import defaults
from drmad_workers.hyperparameters.base import BoundHyperparameter, Setting
from drmad_workers.hyperparameters.rates import PerStep, bind_rate


@dataclass(frozen=True)
class Momentum:
    """γ_t = σ(λ), the momentum of the inner optimizer; of Adam its β₁.

    Attributes:
        per: see LearningRate.
        init: the logit to start from; None takes the training's own momentum, but at least 0.01,
            as no logit is that of 0.
        lower, upper: bounds of λ.
    """

    name: str = "momentum"
    per: PerStep = defaults.Kinds.rate_per
    init: float | None = None
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        own = max(setting.momentum, 0.01)
        init = math.log(own / (1.0 - own)) if self.init is None else self.init
        return bind_rate(self, "momentum", "sigmoid", init, setting)
