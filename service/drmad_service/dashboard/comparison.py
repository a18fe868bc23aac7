"""Compares jobs: the differences between their specs, and their metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drmad_client.plots.learned_values import Values
from drmad_client.plots.ranks import rank_correlation
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import JobRecord
from drmad_client.spec.job import JobSpec
from drmad_service.dashboard.job_editor import without_defaults


def differences(specs: Sequence[JobSpec]) -> dict[str, list[str]]:
    """Returns the values of each field that differs; "" stands for a field that a spec lacks.

    Null is the same as a missing field. A field that only some specs have, such as an option of
    one method, is a difference where one of them departs from its default.
    """
    flat = [_flat(spec.model_dump(mode="json")) for spec in specs]
    stated = {path for spec in specs for path in _flat(without_defaults(spec))}
    rows: dict[str, list[str]] = {}
    for path in dict.fromkeys(path for fields in flat for path in fields):
        values = [fields.get(path, "") for fields in flat]
        values = ["" if value == "null" else value for value in values]
        is_shared = all(path in fields for fields in flat)
        if len(set(values)) > 1 and (is_shared or path in stated):
            rows[path] = values
    return rows


def best(jobs: Sequence[JobRecord]) -> set[str]:
    """Returns the ids of the jobs of lowest validation loss, each among two or more of its problem.

    Jobs of different data or training objectives have losses that do not compare.
    """
    by_problem: dict[str, list[JobRecord]] = {}
    for job in jobs:
        if job.best is not None:
            by_problem.setdefault(_compared(job), []).append(job)
    found: set[str] = set()
    for group in by_problem.values():
        if len(group) > 1:
            lowest = min(job.best.validation_loss for job in group if job.best)
            found |= {j.id for j in group if j.best and j.best.validation_loss == lowest}
    return found


def alike(jobs: Sequence[JobRecord]) -> set[str]:
    """Returns the ids of the jobs whose losses compare with those of the first one."""
    return {job.id for job in jobs if _compared(job) == _compared(jobs[0])}


def _compared(job: JobRecord) -> str:
    """What jobs with comparable losses share: the data, or the problem of code that states them."""
    problem = job.spec.problem.model_dump(mode="json")
    shared = problem["data"] if job.spec.problem.kind == "catalog" else problem
    return json.dumps(shared, sort_keys=True)


def metrics(jobs: Sequence[JobRecord]) -> list[str]:
    """Returns the names of the metrics that at least one job reported."""
    return list(dict.fromkeys(name for job in jobs if job.best for name in job.best.metrics))


def relative(value: float | None, reference: float | None) -> str:
    """The change from a reference in per cent, such as "+3.2 %"; empty where it has no meaning."""
    if value is None or not reference or not math.isfinite(value / reference):
        return ""
    change = 100 * (value - reference) / abs(reference)
    return f"{change:+,.0f} %" if abs(change) >= 1000 else f"{change:+.3g} %"


@dataclass(frozen=True)
class SharedHyperparameter:
    """A hyperparameter that the first job and others tuned, with as many entries.

    Attributes:
        correlations: by job the rank correlation of its values to those of the first; None where
            values are not kept, or all equal.
    """

    info: HyperparameterInfo
    correlations: dict[str, float | None]

    @property
    def count(self) -> int:
        return math.prod(self.info.shape)


def shared(
    jobs: Sequence[JobRecord], values: Mapping[str, Mapping[str, Values]]
) -> list[SharedHyperparameter]:
    """What the first job and at least one other tuned alike; `values` are raw, by job and name."""
    if not jobs:
        return []
    found = []
    for info in jobs[0].hyperparameters:
        others = [
            job
            for job in jobs[1:]
            if any(
                (each.name, each.kind, each.shape) == (info.name, info.kind, info.shape)
                for each in job.hyperparameters
            )
        ]
        if math.prod(info.shape) < 2 or not others:
            continue
        reference = values.get(jobs[0].id, {}).get(info.name)
        correlations: dict[str, float | None] = {}
        for job in others:
            learned = values.get(job.id, {}).get(info.name)
            correlations[job.id] = None
            if reference is not None and learned is not None:
                correlations[job.id] = rank_correlation(reference, learned)
        found.append(SharedHyperparameter(info, correlations))
    return found


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        pairs = [(f"{path}.{name}" if path else str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        pairs = [(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {path: value if isinstance(value, str) else json.dumps(value)}
    return {key: text for name, inner in pairs for key, text in _flat(inner, name).items()}
