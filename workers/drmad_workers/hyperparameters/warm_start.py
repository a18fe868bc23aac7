"""First values from those that another job has tuned, also where shapes differ.

Raw values are taken as they are where the shape is the same. Otherwise, in this order:

- A schedule λ(0..S-1) becomes one of T steps by linear interpolation over the progress of training:
  step t of T is at (t + 1/2) / T, and the ends are constant beyond the outermost points.
- A single value fills every entry.
- Labelled segments (layers, classes, sources) take those of the same label and length, and the
  others keep their own initial values.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter


@dataclass(frozen=True)
class TunedElsewhere:
    """What another job has tuned.

    Attributes:
        values: raw values by name.
        infos: HyperparameterInfo of each as a dictionary, by name.
        schedules: the names that have an entry for each step there and here.
    """

    values: Mapping[str, Tensor]
    infos: Mapping[str, Mapping[str, Any]]
    schedules: Collection[str] = ()


def warm_values(
    bound: Mapping[str, BoundHyperparameter], tuned: TunedElsewhere
) -> tuple[dict[str, Tensor], list[str]]:
    """The first λ by name, and a sentence for each that was not taken as it is.

    Raises:
        ProblemError: the values of a hyperparameter cannot stand for those of this problem.
    """
    found: dict[str, Tensor] = {}
    adapted: list[str] = []
    for name, mine in bound.items():
        given = tuned.values.get(name)
        if given is None:
            found[name] = mine.initial.clone()
            adapted.append(f"{name} begins at its own initial values: the other job has none")
            continue
        info = tuned.infos[name]
        if info["transform"] != mine.transform:
            raise ProblemError(
                f"{name} must have the transform {info['transform']}, as in the job it starts "
                f"from, got {mine.transform}: rename it to begin at its own values",
                f"hyperparameters.{name}",
            )
        value, how = _fitted(name, mine, given.to(mine.initial), info, name in tuned.schedules)
        inside = value.clamp(mine.lower, mine.upper) if _is_bounded(mine) else value
        if not torch.equal(inside, value):
            count = int((inside != value).sum())
            how = [*how, f"{count} values of {name} were moved to its bounds"]
        found[name] = inside.contiguous()
        adapted += how
    return found, adapted


def _fitted(
    name: str,
    mine: BoundHyperparameter,
    given: Tensor,
    info: Mapping[str, Any],
    is_schedule: bool,
) -> tuple[Tensor, list[str]]:
    shape, labels = mine.initial.shape, {group.label for group in mine.groups}
    theirs = {group["label"]: group for group in info["groups"]}
    rows_alike = given.shape[:-1] == shape[:-1]
    if is_schedule and rows_alike and given.shape != shape:
        steps, before = shape[-1], given.shape[-1]
        return resampled(given, steps), [
            f"{name} was interpolated from {before} to {steps} steps of training"
        ]
    same_labels = not theirs or len(labels) < 2 or labels == theirs.keys()
    if given.shape == shape and (same_labels or is_schedule):
        return given.clone(), []
    if given.numel() == 1:
        return given.reshape(()).expand(shape).clone(), [
            f"{name} has the single value of the other job in each of its {mine.initial.numel()} "
            "entries"
        ]
    return _by_label(name, mine, given, theirs)


def resampled(schedule: Tensor, steps: int) -> Tensor:
    """The schedule of another number of steps, by interpolation over the progress of training.

    Args:
        schedule: shape (..., S).
    Returns:
        shape (..., steps).
    """
    before = schedule.shape[-1]
    places = (torch.arange(steps, dtype=torch.float64) + 0.5) * before / steps - 0.5
    places = places.clamp(0.0, before - 1.0)
    low = places.floor().long()
    high = (low + 1).clamp(max=before - 1)
    part = (places - low).to(schedule)
    return torch.lerp(schedule[..., low], schedule[..., high], part)


def _by_label(
    name: str, mine: BoundHyperparameter, given: Tensor, theirs: Mapping[str, Mapping[str, Any]]
) -> tuple[Tensor, list[str]]:
    value, flat = mine.initial.clone(), given.flatten()
    entries = value.view(-1)
    taken: set[str] = set()
    for group in mine.groups:
        other = theirs.get(group.label)
        if other is not None and other["stop"] - other["start"] == group.stop - group.start:
            entries[group.start : group.stop] = flat[other["start"] : other["stop"]]
            taken.add(group.label)
    if not taken:
        raise ProblemError(
            f"{name} has the shape {list(mine.initial.shape)}, and {list(given.shape)} in the job "
            "it starts from, which have no layer, class or source in common: rename it to begin "
            "at its own values",
            f"hyperparameters.{name}",
        )
    left = [group.label for group in mine.groups if group.label not in taken]
    return value, [f"{name} keeps its own initial values for {_listed(left)}"] if left else []


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:5])
    return shown if len(labels) <= 5 else f"{shown} and {len(labels) - 5} more"


def _is_bounded(mine: BoundHyperparameter) -> bool:
    return mine.lower is not None or mine.upper is not None
