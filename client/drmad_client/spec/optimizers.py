"""The inner optimizers: one row each, read by validation and by the engine. Needs no pydantic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

OptimizerName = Literal["sgd", "damped_sgd", "adam", "adamw"]


@dataclass(frozen=True)
class OptimizerTraits:
    """What the methods and the kinds of hyperparameters need to know of an inner optimizer.

    Attributes:
        engine: module and class below `drmad_workers.training.optimizers`.
        unread: the fields of `training` that have no effect.
        first_decay: the field of `training` that the kind `momentum` tunes; of a pair, the first.
        reversible: whether the method `reversible` can undo a step in fixed point.
        fixed_step: whether a constant gradient moves the weights by a fixed step size, which the
            Neumann series takes by default.
    """

    engine: str
    unread: tuple[str, ...]
    first_decay: Literal["momentum", "betas"]
    reversible: bool
    fixed_step: bool


_SGD = OptimizerTraits(
    "sgd:MomentumSGD", ("betas", "eps"), "momentum", reversible=True, fixed_step=True
)
_ADAM = OptimizerTraits(
    "adam:Adam", ("momentum", "nesterov"), "betas", reversible=False, fixed_step=False
)

OPTIMIZERS: dict[str, OptimizerTraits] = {
    "sgd": _SGD,
    "damped_sgd": replace(_SGD, unread=("betas", "eps", "nesterov")),
    "adam": _ADAM,
    "adamw": _ADAM,
}
