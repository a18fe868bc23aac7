"""A weight for each class, or for each term of the training loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from drmad_client.spec import bounds, defaults
from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter, BoundTensor, Group, Setting
from drmad_workers.hyperparameters.classes import classes_of


@dataclass(frozen=True)
class BoundClassWeight(BoundTensor):
    """(1/|B|) Σ_{i in B} e^{λ_c} ℓ_i with c the class of i; shape (classes,).

    Attributes:
        ignores: whether some targets are negative, as those of rows that the loss ignores (-100 in
            torch); their weight is 0.
    """

    ignores: bool = False

    what: ClassVar[str] = "weight of a class"


@dataclass(frozen=True)
class LossWeight:
    """Weights e^λ of the parts of the training loss.

    Without an `inner_loss` of the problem's own, one per class of the integer targets: the loss
    of an example counts e^{λ_c} times, c its class; negative classes (rows that the loss ignores,
    -100 in torch) have a weight of 0. With one, the engine weighs nothing: the loss
    is handed all e^λ under this name, one per `terms`, and applies them to its own terms.

    Attributes:
        terms: how many terms the problem's own `inner_loss` has; None for one per class.
        init: the log weight to start from; 0 is a weight of one.
        lower, upper: bounds of λ.
    """

    name: str = "loss_weight"
    terms: int | None = None
    init: float = defaults.Kinds.log_loss_weight
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        own_loss = setting.problem.inner_loss is not None
        allowed = bounds.LOSS_TERMS
        if self.terms is not None and not (own_loss and allowed.hold(self.terms)):
            raise ProblemError(
                f"{self.name}: terms must be {allowed} and needs an inner_loss that has them, got "
                f"{self.terms}: leave it out for one weight per class",
                f"hyperparameters.{self.name}.terms",
            )
        label, count, ignores = "term", self.terms or 0, False
        if self.terms is None:
            classes, targets = classes_of(setting, self.name)
            label, count, ignores = "class", classes, bool((targets < 0).any())
        groups = [Group(f"{label} {i}", i, i + 1) for i in range(count)]
        initial = torch.full((count,), self.init, dtype=setting.dtype)
        if own_loss:
            return BoundTensor(self.name, initial, "exp", self.lower, self.upper, groups)
        return BoundClassWeight(self.name, initial, "exp", self.lower, self.upper, groups, ignores)
