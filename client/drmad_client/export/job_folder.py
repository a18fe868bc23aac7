"""The files of a job on the user's disk, which suffice to use its result and to repeat it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.spec.job import JobSpec

# These fields have a value per replica or per group, so they have no columns.
_NOT_IN_COLUMNS: Any = {"replicas": True, "hyperparameters": {"__all__": {"groups"}}}


def spec_yaml(spec: JobSpec) -> str:
    """The spec with every default written out; `drmad submit` accepts it unchanged."""
    import yaml

    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def history_csv(history: Iterable[MetaIteration]) -> str:
    """A row per meta-iteration; nested fields have columns such as metrics.test_error."""
    import csv
    import io

    rows = history_rows(history)
    columns = dict.fromkeys(column for row in rows for column in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def history_rows(history: Iterable[MetaIteration]) -> list[dict[str, Any]]:
    return [
        _flat(record.model_dump(mode="json", exclude=_NOT_IN_COLUMNS))
        | {"warnings": "; ".join(record.warnings)}
        for record in history
    ]


def write(files: Mapping[str, bytes], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in record.items():
        row |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return row
