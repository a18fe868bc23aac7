"""The inner optimizers: one row each, read by validation and by the engine. Needs no pydantic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

OptimizerName = Literal["sgd", "damped_sgd", "adam", "adamw", "rmsprop", "lion", "muon", "custom"]


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
        limit: what the hypergradient leaves out under the optimizer, a sentence; None for nothing.
    """

    engine: str
    unread: tuple[str, ...]
    first_decay: Literal["momentum", "betas"]
    reversible: bool
    fixed_step: bool
    limit: str | None = None


_SGD = OptimizerTraits(
    "sgd:MomentumSGD", ("betas", "eps", "smoothing"), "momentum", reversible=True, fixed_step=True
)
_ADAM = OptimizerTraits(
    "adam:Adam",
    ("momentum", "nesterov", "smoothing"),
    "betas",
    reversible=False,
    fixed_step=False,
)

OPTIMIZERS: dict[str, OptimizerTraits] = {
    "sgd": _SGD,
    "damped_sgd": replace(_SGD, unread=(*_SGD.unread, "nesterov")),
    "adam": _ADAM,
    "adamw": _ADAM,
    "rmsprop": replace(
        _ADAM, engine="rmsprop:RMSprop", unread=("betas", "nesterov"), first_decay="momentum"
    ),
    "lion": replace(
        _ADAM,
        engine="lion:Lion",
        unread=(*_ADAM.unread, "eps"),
        limit="lion moves the weights by a sign, whose derivative is 0 almost everywhere: only "
        "learning_rate, weight_decay and init_scale have a hypergradient, and that of all "
        "hyperparameters of the training loss is 0; use another inner optimizer for them",
    ),
    "muon": replace(_ADAM, engine="muon:Muon", unread=("smoothing",), first_decay="momentum"),
    "custom": replace(
        _ADAM,
        engine="rule_optimizer:RuleOptimizer",
        unread=("betas", "eps", "nesterov", "smoothing"),
        first_decay="momentum",
    ),
}
