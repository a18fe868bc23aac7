"""What the kinds that tune a rate of the inner optimizer share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter, Group, Setting, require_one_of
from drmad_workers.hyperparameters.groups import (
    ParameterGroup,
    group_of,
    has_own,
    own_values,
    patterns_of,
    require_members,
)
from drmad_workers.problem import Transform

PerStep = Literal["model", "group", "layer", "step", "step_and_layer"]
RateRole = Literal["learning_rate", "momentum", "weight_decay"]

OTHERS = "others"
"""The label of the parameters that are in no group of the training."""

SEGMENTS = 10
"""A schedule is labelled in about this many segments of steps."""


@dataclass(frozen=True)
class BoundRate(BoundHyperparameter):
    """α_t, γ_t or ω of the inner optimizer.

    Attributes:
        role: the rate that it tunes.
        layout: the shape of λ as (rows, T or 1); a row is a layer, or the whole model.
        rows: the row of each layer, shape (L,), int64, where layers share rows; -1 for a layer
            that keeps its own value. None where the rows are the layers or the model.
    """

    role: RateRole
    layout: tuple[int, int]
    rows: Tensor | None = None

    def table(self, value: Tensor, own: Sequence[float]) -> Tensor:
        """The rate by layer and step, shape (L or 1, T or 1); a layer's own if it is not tuned."""
        table = value.view(self.layout)
        if self.rows is None:
            return table
        rows = self.rows.to(table.device)
        return torch.where(rows[:, None] >= 0, table[rows], table.new_tensor(own)[:, None])

    def directions(self, values: Tensor) -> Tensor:
        """Directions of the value, shape (D, *shape), by layer and step: (D, L or 1, T or 1)."""
        table = values.view(len(values), *self.layout)
        if self.rows is None:
            return table
        rest = torch.zeros_like(table[:, :1])
        return torch.cat([table, rest], dim=1)[:, self.rows.to(table.device)]


class RateKind(Protocol):
    """A kind that tunes a rate, per model, layer, group, step, or step and layer."""

    @property
    def name(self) -> str: ...

    @property
    def per(self) -> str: ...

    @property
    def groups(self) -> Sequence[str]: ...

    @property
    def init(self) -> float | None: ...

    @property
    def lower(self) -> float | None: ...

    @property
    def upper(self) -> float | None: ...


def bind_rate(
    kind: RateKind,
    role: RateRole,
    transform: Transform,
    raw: Callable[[float], float],
    constant: float,
    setting: Setting,
) -> BoundRate:
    """Binds a rate to the parameters that it is tuned for.

    Args:
        raw: the raw value from which a rate starts.
        constant: the rate of the training, in the place of which a group may state its own.
    """
    require_one_of(get_args(PerStep), kind.per, kind.name)
    names = [slot.name for slot in setting.slots]
    labels, rows = tuned_rows(kind, role, names, setting.groups)
    own = own_values(setting.groups, names, role, constant)
    starts = [raw(own[rows.index(row)]) for row in range(len(labels))]
    steps = setting.steps if "step" in kind.per else 1
    if kind.per == "step":
        groups = segments(steps)
    else:
        groups = [Group(label, i * steps, (i + 1) * steps) for i, label in enumerate(labels)]
    initial = torch.tensor(starts, dtype=setting.dtype)
    if kind.init is not None:
        initial.fill_(kind.init)
    if "step" in kind.per:
        initial = initial[:, None].repeat(1, steps)
    if kind.per == "step":
        initial = initial[0]
    shared = rows not in ([0] * len(names), [*range(len(names))])
    return BoundRate(
        kind.name,
        initial,
        transform,
        kind.lower,
        kind.upper,
        groups,
        role,
        (len(labels), steps),
        torch.tensor(rows) if shared else None,
    )


def tuned_rows(
    kind: RateKind, role: RateRole, names: Sequence[str], groups: Sequence[ParameterGroup]
) -> tuple[list[str], list[int]]:
    """The label of every row of λ, and the row of every parameter, -1 if it keeps its own rate.

    Per model or step, a parameter whose group states the rate keeps it. Per group, the groups are
    the kind's own, and other parameters keep their rates; or they are those of the training, and
    the parameters in none of them share a row.
    """
    field = f"hyperparameters.{kind.name}.groups"
    if kind.groups and kind.per != "group":
        raise ProblemError(
            f"{kind.name}: groups are those of per group, got {list(kind.groups)} with per "
            f"{kind.per}: leave them out",
            field,
        )
    if kind.per in ("layer", "step_and_layer"):
        return list(names), [*range(len(names))]
    if kind.per != "group":
        rows = [-int(own) for own in has_own(groups, names, role)]
        if 0 not in rows:
            raise ProblemError(
                f"{kind.name} per {kind.per} must be the {role} of some parameter, and every group "
                f"of training.groups states its own: tune it per group, or remove a {role} there",
                f"hyperparameters.{kind.name}.per",
            )
        return ["model"], rows
    if kind.groups:
        require_members(kind.groups, names, kind.name, field)
        return list(kind.groups), [group_of(kind.groups, name) for name in names]
    if not groups:
        raise ProblemError(
            f"{kind.name} per group needs patterns in groups, or training.groups: add one of them",
            field,
        )
    found = [group_of(patterns_of(groups), name) for name in names]
    tuned = sorted(set(found), key=lambda row: (row < 0, row))
    labels = [groups[row].match if row >= 0 else OTHERS for row in tuned]
    return labels, [tuned.index(row) for row in found]


def segments(steps: int) -> list[Group]:
    """About SEGMENTS segments of equal length, labelled by their first and last step."""
    length = -(-steps // SEGMENTS)
    return [
        Group(
            f"steps {start} to {min(start + length, steps) - 1}", start, min(start + length, steps)
        )
        for start in range(0, steps, length)
    ]
