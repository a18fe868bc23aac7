"""Several jobs side by side: where their specs differ, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from drmad_client.records.job import JobRecord
from drmad_client.spec.job import JobSpec


def differences(specs: Sequence[JobSpec]) -> dict[str, list[str]]:
    """The fields that are not the same in all of them; "" where a spec has no such field."""
    flat = [_flat(spec.model_dump(mode="json")) for spec in specs]
    paths = dict.fromkeys(path for fields in flat for path in fields)
    rows = {path: [fields.get(path, "") for fields in flat] for path in paths}
    return {path: values for path, values in rows.items() if len(set(values)) > 1}


def metrics(jobs: Sequence[JobRecord]) -> list[str]:
    """The names of all metrics that any of them reported."""
    return list(dict.fromkeys(name for job in jobs if job.best for name in job.best.metrics))


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        pairs = [(f"{path}.{name}" if path else str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        pairs = [(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {path: value if isinstance(value, str) else json.dumps(value)}
    return {key: text for name, inner in pairs for key, text in _flat(inner, name).items()}
