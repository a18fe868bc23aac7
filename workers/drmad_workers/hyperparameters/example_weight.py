"""The weights of all training examples at one, by which an attribution differentiates."""

from dataclasses import dataclass

import torch

from drmad_workers.hyperparameters.base import BoundHyperparameter, BoundTensor, Group, Setting
from drmad_workers.hyperparameters.sample_weight import BoundSampleWeight

NAME = "sample_weight"


@dataclass(frozen=True)
class ExampleWeight:
    """A weight u_i = 1 of every training example, λ itself: the training is that without weights.

    The training loss of a minibatch B is Σ_{i in B} u_i ℓ_i / |B|, so that u_i = 0 leaves example i
    out and changes nothing else. A problem's own `inner_loss` takes the weights by this name.
    """

    name: str = NAME

    def bind(self, setting: Setting) -> BoundHyperparameter:
        rows = setting.train.rows
        initial = torch.ones(rows, dtype=setting.dtype)
        groups = [Group(self.name, 0, rows)]
        kind = BoundSampleWeight if setting.problem.inner_loss is None else BoundTensor
        return kind(self.name, initial, "identity", None, None, groups)
