"""What the kinds that tune a rate of the inner optimizer share."""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from drmad_workers.hyperparameters.base import BoundHyperparameter, Group, Setting, require_one_of
from drmad_workers.problem import Transform

PerStep = Literal["model", "layer", "step", "step_and_layer"]
RateRole = Literal["learning_rate", "momentum", "weight_decay"]

SEGMENTS = 10
"""A schedule is labelled in about this many segments of steps."""


@dataclass(frozen=True)
class BoundRate(BoundHyperparameter):
    """α_t, γ_t or ω of the inner optimizer.

    Attributes:
        role: the rate that it tunes.
        layout: the shape of λ as (rows, T or 1); a row is a layer, or the whole model.
        rows: the row of each layer, shape (L,), int64, where layers share rows; -1 for a layer
            that keeps the training's own value. None where the rows are the layers or the model.
    """

    role: RateRole
    layout: tuple[int, int]
    rows: Tensor | None = None

    def table(self, value: Tensor, constant: float) -> Tensor:
        """The rate by layer and step, shape (L or 1, T or 1); `constant` where it is not tuned."""
        table = value.view(self.layout)
        if self.rows is None:
            return table
        rest = table.new_full((1, table.shape[1]), constant)
        return torch.cat([table, rest])[self.rows.to(table.device)]

    def directions(self, values: Tensor) -> Tensor:
        """Directions of the value, shape (D, *shape), by layer and step: (D, L or 1, T or 1)."""
        table = values.view(len(values), *self.layout)
        if self.rows is None:
            return table
        rest = torch.zeros_like(table[:, :1])
        return torch.cat([table, rest], dim=1)[:, self.rows.to(table.device)]


class RateKind(Protocol):
    """A kind that tunes a rate, per model, layer, step, or step and layer."""

    @property
    def name(self) -> str: ...

    @property
    def per(self) -> PerStep: ...

    @property
    def lower(self) -> float | None: ...

    @property
    def upper(self) -> float | None: ...


def bind_rate(
    kind: RateKind,
    role: RateRole,
    transform: Transform,
    init: float,
    setting: Setting,
) -> BoundRate:
    require_one_of(get_args(PerStep), kind.per, kind.name)
    layers = len(setting.slots) if "layer" in kind.per else 1
    steps = setting.steps if "step" in kind.per else 1
    shape = {"model": (1,), "layer": (layers,), "step": (steps,)}.get(kind.per, (layers, steps))
    if layers > 1 or "layer" in kind.per:
        groups = [
            Group(slot.name, i * steps, (i + 1) * steps) for i, slot in enumerate(setting.slots)
        ]
    elif kind.per == "step":
        groups = segments(steps)
    else:
        groups = [Group("model", 0, 1)]
    initial = torch.full(shape, init, dtype=setting.dtype)
    bounds = (kind.lower, kind.upper)
    return BoundRate(kind.name, initial, transform, *bounds, groups, role, (layers, steps))


def segments(steps: int) -> list[Group]:
    """About SEGMENTS segments of equal length, labelled by their first and last step."""
    length = -(-steps // SEGMENTS)
    return [
        Group(
            f"steps {start} to {min(start + length, steps) - 1}", start, min(start + length, steps)
        )
        for start in range(0, steps, length)
    ]
