"""The learning rate of the inner optimizer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from drmad_client.spec import defaults
from drmad_workers.hyperparameters.base import BoundHyperparameter, Setting
from drmad_workers.hyperparameters.rates import PerStep, bind_rate


@dataclass(frozen=True)
class LearningRate:
    """λ = log α_t, the learning rate of the inner optimizer.

    Attributes:
        per: one for the whole "model"; one per "group", "layer", "step" or "step_and_layer", the
            last of shape (layers, steps). A layer is one parameter tensor: a matrix and its bias
            are two. Per model or step, a parameter whose group states a rate keeps it.
        groups: patterns over parameter names, separated by `|`, for per "group"; a layer that none
            matches keeps its own rate. Empty takes the groups of the training, and one more of the
            layers that are in none of them.
        init: log α to start from; None takes the learning rate that the layers have in training.
        lower, upper: bounds of λ.
    """

    name: str = "learning_rate"
    per: PerStep = defaults.Kinds.rate_per
    groups: Sequence[str] = ()
    init: float | None = None
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        return bind_rate(self, "learning_rate", "exp", math.log, setting.learning_rate, setting)
