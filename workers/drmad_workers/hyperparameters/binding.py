"""Binds all kinds of a problem together: their names differ, and each rate is tuned once."""

from collections.abc import Sequence
from typing import get_args

from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter, Kind, Setting, within_bounds
from drmad_workers.hyperparameters.custom_tensor import CustomTensor
from drmad_workers.hyperparameters.rates import BoundRate, RateRole


def bind_all(kinds: Sequence[Kind], setting: Setting) -> dict[str, BoundHyperparameter]:
    """Binds every kind; names are unique and are the user's only for a `CustomTensor`."""
    bound: dict[str, BoundHyperparameter] = {}
    for kind in kinds:
        taken = kind.name in bound or (
            kind.name in setting.problem.hyperparameters and not isinstance(kind, CustomTensor)
        )
        if taken:
            raise ProblemError(
                f"names of hyperparameters must differ, got {kind.name!r} twice: name one of them",
                f"hyperparameters.{kind.name}",
            )
        bound[kind.name] = within_bounds(kind.bind(setting))
    if not bound:
        raise ProblemError("there must be at least one hyperparameter to tune", "hyperparameters")
    for role in get_args(RateRole):
        names = [b.name for b in bound.values() if isinstance(b, BoundRate) and b.role == role]
        if len(names) > 1:
            raise ProblemError(
                f"there can be one {role} only, got {', '.join(names)}",
                f"hyperparameters.{names[1]}",
            )
    return bound
