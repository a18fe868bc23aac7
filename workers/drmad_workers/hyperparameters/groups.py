"""Groups of parameters, by patterns over the names of `named_parameters()`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from drmad_workers.errors import ProblemError


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that train at rates of their own, or not at all.

    Attributes:
        match: patterns over names, separated by `|`, such as "*.bias|*norm*". A parameter belongs
            to the first group that matches.
        learning_rate, momentum, weight_decay: in the place of those of the training; None keeps
            them.
        frozen: whether the parameters keep the values that they have after `initialize`.
    """

    match: str
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    frozen: bool = False


def group_of(patterns: Sequence[str], name: str) -> int:
    """The first of the patterns that matches a name; -1 for none."""
    for number, pattern in enumerate(patterns):
        if any(fnmatchcase(name, each.strip()) for each in pattern.split("|")):
            return number
    return -1


def require_members(patterns: Sequence[str], names: Sequence[str], what: str, field: str) -> None:
    """Raises ProblemError if a pattern is for none of the names the first to match."""
    found = {group_of(patterns, name) for name in names}
    for number, pattern in enumerate(patterns):
        if number not in found:
            raise ProblemError(
                f"{what}: the pattern {pattern!r} must be the first to match some parameter, and "
                f"it is for none of {', '.join(names)}",
                field,
            )


def patterns_of(groups: Sequence[ParameterGroup]) -> list[str]:
    return [group.match for group in groups]


def own_values(
    groups: Sequence[ParameterGroup], names: Sequence[str], role: str, constant: float
) -> list[float]:
    """The rate of this role that each parameter has from its group, or from the training."""
    stated = [constant if value is None else value for value in _stated(groups, names, role)]
    return [float(value) for value in stated]


def has_own(groups: Sequence[ParameterGroup], names: Sequence[str], role: str) -> list[bool]:
    """Whether the group of each parameter states a rate of this role."""
    return [value is not None for value in _stated(groups, names, role)]


def _stated(
    groups: Sequence[ParameterGroup], names: Sequence[str], role: str
) -> list[float | None]:
    rows = [group_of(patterns_of(groups), name) for name in names]
    return [None if row < 0 else getattr(groups[row], role) for row in rows]


@contextmanager
def frozen(model: nn.Module, groups: Sequence[ParameterGroup], copied: bool) -> Iterator[None]:
    """Inside, parameters of frozen groups require no gradient.

    Args:
        copied: whether they get their values back too, which takes a copy of them.
    """
    patterns = patterns_of(groups)
    rows = {name: group_of(patterns, name) for name, _ in model.named_parameters()}
    held = [
        (parameter, parameter.detach().clone() if copied else None)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and rows[name] >= 0 and groups[rows[name]].frozen
    ]
    for parameter, _ in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, values in held:
            if values is not None:
                parameter.copy_(values)
            parameter.requires_grad_(True)
