"""Compares jobs: the differences between their specs, and their metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

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
            # Models on the same data are compared; a problem of code states its data itself.
            problem = job.spec.problem.model_dump(mode="json")
            compared = problem["data"] if job.spec.problem.kind == "catalog" else problem
            by_problem.setdefault(json.dumps(compared, sort_keys=True), []).append(job)
    found: set[str] = set()
    for group in by_problem.values():
        if len(group) > 1:
            lowest = min(job.best.validation_loss for job in group if job.best)
            found |= {j.id for j in group if j.best and j.best.validation_loss == lowest}
    return found


def metrics(jobs: Sequence[JobRecord]) -> list[str]:
    """Returns the names of the metrics that at least one job reported."""
    return list(dict.fromkeys(name for job in jobs if job.best for name in job.best.metrics))


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        pairs = [(f"{path}.{name}" if path else str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        pairs = [(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {path: value if isinstance(value, str) else json.dumps(value)}
    return {key: text for name, inner in pairs for key, text in _flat(inner, name).items()}
