"""A weight for each training example."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from drmad_client.spec import defaults
from drmad_workers.hyperparameters.base import (
    BoundHyperparameter,
    BoundTensor,
    Group,
    Setting,
)


@dataclass(frozen=True)
class BoundSampleWeight(BoundHyperparameter):
    """(1/|B|) Σ_{i in B} σ(λ_i) ℓ_i; shape (training examples,)."""

    what: ClassVar[str] = "weight of an example"


@dataclass(frozen=True)
class SampleWeight:
    """One λ_i per training example, whose loss counts σ(λ_i) times: (1/|B|) Σ σ(λ_i) ℓ_i.

    With the problem's own `inner_loss` the engine weighs nothing: the loss is handed all
    σ(λ) under this name and picks those of its batch by `batch.index`.
    """

    name: str = "sample_weight"
    init: float = defaults.Kinds.sample_weight_logit
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        bound = BoundSampleWeight if setting.problem.inner_loss is None else BoundTensor
        examples = setting.train.rows
        initial = torch.full((examples,), self.init, dtype=setting.dtype)
        groups = [Group(self.name, 0, examples)]
        return bound(self.name, initial, "sigmoid", self.lower, self.upper, groups)
