"""The learning rate of the inner optimizer."""

import math
from dataclasses import dataclass

from drmad_client.spec import defaults
from drmad_workers.hyperparameters.base import BoundHyperparameter, Setting
from drmad_workers.hyperparameters.rates import PerStep, bind_rate


@dataclass(frozen=True)
class LearningRate:
    """λ = log α_t, the learning rate of the inner optimizer.

    Attributes:
        per: one for the whole "model"; one per "layer", "step" or "step_and_layer", the last of
            shape (layers, steps). A layer is one parameter tensor: a matrix and its bias are two.
        init: log α to start from; None takes the training's own learning rate.
        lower, upper: bounds of λ.
    """

    name: str = "learning_rate"
    per: PerStep = defaults.Kinds.rate_per
    init: float | None = None
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        init = math.log(setting.learning_rate) if self.init is None else self.init
        return bind_rate(self, "learning_rate", "exp", init, setting)
