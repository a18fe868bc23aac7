"""Compares jobs: the differences between their specs, and their metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from drmad_client.records.job import JobRecord
from drmad_client.spec.job import JobSpec


def differences(specs: Sequence[JobSpec]) -> dict[str, list[str]]:
    """Returns the values of each field that differs; "" stands for a field that a spec lacks."""
    flat = [_flat(spec.model_dump(mode="json")) for spec in specs]
    paths = dict.fromkeys(path for fields in flat for path in fields)
    rows = {path: [fields.get(path, "") for fields in flat] for path in paths}
    return {path: values for path, values in rows.items() if len(set(values)) > 1}


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
