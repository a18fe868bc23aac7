"""What a job learned: which views its page has, and the entries that they show."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from drmad_client.files.png import data_url, pixels_of, png
from drmad_client.plots.learned_overview import has_steps
from drmad_client.plots.learned_values import Values, entry_label, image_shape, penalty_image
from drmad_client.plots.panels import Figure
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import JobRecord
from drmad_client.records.side_runs.examples import ExampleGroups
from drmad_client.spec.capabilities import PENALTIES
from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.transforms import to_user_units
from drmad_service.errors import ResultNotFound

MOST_ENTRIES = 48
MOST_LABELS = 40
Order = Literal["lowest", "highest", "index"]


@dataclass(frozen=True)
class LearnedView:
    """One hyperparameter on the page.

    Attributes:
        view: examples (a weight for each training example), images (learned training data), or
            values.
        has_steps: it is a schedule, a value for each inner step.
        has_image: it is a penalty for each pixel of an input.
    """

    name: str
    kind: str
    view: Literal["examples", "images", "values"]
    count: int
    has_steps: bool
    has_image: bool


@dataclass(frozen=True)
class Entry:
    """One value; of learned data, one example with its pictures."""

    index: int
    label: str
    value: float | None = None
    untuned: float | None = None
    picture: str | None = None
    untuned_picture: str | None = None


@dataclass(frozen=True)
class GroupWeight:
    """The weights of the examples of one class or source."""

    group: str
    label: str
    rows: int
    mean: float


def views(job: JobRecord) -> list[LearnedView]:
    """The views of a job's hyperparameters, in the order of its spec."""
    return [_view(info, job.spec) for info in job.hyperparameters]


def _view(info: HyperparameterInfo, spec: JobSpec) -> LearnedView:
    view: Literal["examples", "images", "values"] = "values"
    if info.kind == "sample_weight" and not info.groups and _is_per_example(info, spec):
        view = "examples"
    elif info.kind == "training_data" and _image_of(info, spec) is not None:
        view = "images"
    return LearnedView(
        info.name,
        info.kind,
        view,
        math.prod(info.shape),
        has_steps(info),
        has_penalty_image(info, spec),
    )


def has_penalty_image(info: HyperparameterInfo, spec: JobSpec) -> bool:
    """Whether the first layer has one or more penalties per pixel, and no earlier one has."""
    shape = image_shape(spec)
    if shape is None or info.kind not in PENALTIES:
        return False
    size = info.groups[0].stop - info.groups[0].start if info.groups else math.prod(info.shape)
    return size % math.prod(shape) == 0


def _is_per_example(info: HyperparameterInfo, spec: JobSpec) -> bool:
    return any(h.per_example for h in spec.hyperparameters if (h.name or h.kind) == info.name)


def _image_of(info: HyperparameterInfo, spec: JobSpec) -> tuple[int, ...] | None:
    """The shape of one learned example as an image, (height, width) or (3, height, width)."""
    inputs = tuple(info.shape[1:])
    if len(inputs) == 1:
        shape = image_shape(spec)
        return shape if shape is not None and math.prod(shape) == inputs[0] else None
    if len(inputs) == 3 and inputs[0] in (1, 3):
        return inputs if inputs[0] == 3 else inputs[1:]
    return inputs if len(inputs) == 2 else None


def image(info: HyperparameterInfo, spec: JobSpec, after: Values) -> Figure:
    """The penalties per pixel of the first layer.

    Raises:
        ResultNotFound: it is no penalty per pixel.
    """
    shape = image_shape(spec)
    if shape is None or not has_penalty_image(info, spec):
        raise ResultNotFound(f"{info.name} is not one penalty per pixel of an image")
    first = after.ravel()
    if info.groups:
        first = first[info.groups[0].start : info.groups[0].stop]
    return penalty_image(first, shape)


def entries(
    info: HyperparameterInfo,
    spec: JobSpec,
    after: Values,
    before: Values | None,
    order: Order,
    query: str = "",
    at: int = 0,
    limit: int = 24,
) -> list[Entry]:
    """At most `limit` entries: the lowest, the highest, or those from index `at` on.

    `query` is an index, or a part of a name.
    """
    image = _image_of(info, spec) if info.kind == "training_data" else None
    count = info.shape[0] if image is not None else after.size
    chosen = _chosen(
        info, after, order if image is None else "index", query.strip(), at, limit, count
    )
    if image is not None:
        return [
            Entry(
                index=index,
                label=f"example {index}",
                picture=_picture(after[index], image),
                untuned_picture=None if before is None else _picture(before[index], image),
            )
            for index in chosen
        ]
    values = to_user_units(after.ravel()[chosen].astype(np.float64), info.transform)
    untuned = None
    if before is not None:
        untuned = to_user_units(before.ravel()[chosen].astype(np.float64), info.transform)
    return [
        Entry(
            index=index,
            label=entry_label(info, index),
            value=_finite(values[place]),
            untuned=None if untuned is None else _finite(untuned[place]),
        )
        for place, index in enumerate(chosen)
    ]


def _chosen(
    info: HyperparameterInfo,
    after: Values,
    order: Order,
    query: str,
    at: int,
    limit: int,
    count: int,
) -> list[int]:
    place = [part.strip() for part in query.strip("[]").split(",")]
    if len(place) == len(info.shape) > 1 and all(part.isdecimal() for part in place):
        numbers = [int(part) for part in place]
        if any(number >= size for number, size in zip(numbers, info.shape, strict=True)):
            return []
        return [int(np.ravel_multi_index(numbers, info.shape))]
    if query.isdecimal():
        first = int(query)
        return list(range(first, min(first + 1, count)))
    if query:
        named = [
            index
            for group in info.groups
            if query.lower() in group.label.lower()
            for index in range(group.start, min(group.stop, group.start + limit))
        ]
        if not info.groups and query.lower() in info.name.lower():
            named = list(range(min(limit, count)))
        return named[:limit]
    if order == "index":
        return list(range(at, min(at + limit, count)))
    flat = np.nan_to_num(after.ravel(), nan=np.inf if order == "lowest" else -np.inf)
    signed = flat if order == "lowest" else -flat
    kept = min(limit, signed.size)
    part = np.argpartition(signed, kept - 1)[:kept] if kept < signed.size else np.arange(kept)
    ordered: list[int] = part[np.lexsort((part, signed[part]))].tolist()
    return ordered


def _picture(values: Values, image: tuple[int, ...]) -> str:
    shaped = values.reshape(image)
    return data_url(png(pixels_of(shaped.transpose(1, 2, 0) if len(image) == 3 else shaped)))


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def group_weights(
    groups: Mapping[str, ExampleGroups], info: HyperparameterInfo, after: Values
) -> list[GroupWeight]:
    """The mean weight of each class and source, the lowest first in each group."""
    weights = to_user_units(after.ravel().astype(np.float64), info.transform)
    found: list[GroupWeight] = []
    for name, group in groups.items():
        numbers = np.asarray(group.numbers)
        if numbers.size != weights.size:
            continue  # the data changed since the job ran
        rows = np.bincount(numbers[numbers >= 0], minlength=len(group.labels))
        sums = np.bincount(numbers[numbers >= 0], weights[numbers >= 0], len(group.labels))
        of_group = [
            GroupWeight(name, label, int(rows[place]), float(sums[place] / rows[place]))
            for place, label in enumerate(group.labels)
            if rows[place]
        ]
        found += sorted(of_group, key=lambda each: each.mean)[:MOST_LABELS]
    return found


def labels_of(groups: Mapping[str, ExampleGroups], row: int) -> dict[str, str]:
    """The class of an example, and its labels in the columns of the data."""
    return {
        name: group.labels[group.numbers[row]]
        for name, group in groups.items()
        if row < len(group.numbers) and group.numbers[row] >= 0
    }


def as_csv(info: HyperparameterInfo, after: Values, before: Values | None) -> str:
    """Every entry with its index, full name, tuned and untuned value, in the user's units."""
    values = to_user_units(after.ravel().astype(np.float64), info.transform).tolist()
    starts: Sequence[Any] = [""] * len(values)
    if before is not None:
        starts = to_user_units(before.ravel().astype(np.float64), info.transform).tolist()
    labels = [f"{info.name}[{index}]" for index in range(len(values))]
    for group in info.groups:
        for index in range(group.start, group.stop):
            labels[index] = entry_label(info, index, group)
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(["index", "name", "tuned", "untuned"])
    writer.writerows(zip(range(len(values)), labels, values, starts, strict=True))
    return written.getvalue()


def as_json(found: Sequence[Entry | GroupWeight]) -> list[dict[str, Any]]:
    return [asdict(each) for each in found]
