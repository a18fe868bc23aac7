"""The training inputs themselves: data distillation."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from drmad_client.spec import defaults
from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import (
    BoundHyperparameter,
    Group,
    Setting,
    require_one_of,
)
from drmad_workers.random_streams import Purpose, seed_of


@dataclass(frozen=True)
class BoundTrainingData(BoundHyperparameter):
    """The inputs of the training examples themselves; shape (training examples, ...)."""

    what: ClassVar[str] = "training_data"


@dataclass(frozen=True)
class TrainingData:
    """The inputs of the training examples themselves (their targets stay): data distillation.

    Attributes:
        init: "data" starts from the training inputs, "noise" from normal numbers with their mean
            and standard deviation.
        lower, upper: bounds of every input, such as 0 and 1 for pixels.
    """

    name: str = "training_data"
    init: Literal["data", "noise"] = defaults.Kinds.training_data
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        inputs = setting.train.all_inputs()
        if inputs is None or not inputs.is_floating_point():
            raise ProblemError(
                f"{self.name} needs training data that are pairs (inputs, targets) without a "
                "collate_fn, and whose inputs are one tensor of floating point that fits into "
                "memory",
                f"hyperparameters.{self.name}",
            )
        require_one_of(("data", "noise"), self.init, self.name, "init")
        initial = inputs.detach().to(device="cpu", dtype=setting.dtype, copy=True)
        if self.init == "noise":
            draw = torch.Generator().manual_seed(seed_of(Purpose.TRAINING_DATA, setting.seed))
            noise = torch.randn(initial.shape, generator=draw, dtype=setting.dtype)
            initial = (initial.mean() + initial.std(correction=0) * noise).clamp(
                self.lower if self.lower is not None else -math.inf, self.upper
            )
        size = math.prod(initial.shape[1:])
        groups = [Group(f"example {i}", i * size, (i + 1) * size) for i in range(len(initial))]
        return BoundTrainingData(self.name, initial, "identity", self.lower, self.upper, groups)
