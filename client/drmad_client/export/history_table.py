"""The history of a job as a table in Parquet; pyarrow must be installed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from drmad_client.errors import DrmadError, UsageError
from drmad_client.export.job_folder import history_csv, history_rows
from drmad_client.records.meta_iteration import MetaIteration

SUFFIXES = (".csv", ".parquet")
PARQUET = "application/vnd.apache.parquet"


def history_parquet(history: Iterable[MetaIteration]) -> bytes:
    """A row per meta-iteration with the columns of the CSV; times are texts, lists are JSON.

    Raises:
        ImportError: pyarrow is not installed.
    """
    import pyarrow
    import pyarrow.parquet

    rows = history_rows(history)
    columns = dict.fromkeys(column for row in rows for column in row)
    table = pyarrow.table(
        {name: _column(pyarrow, [row.get(name) for row in rows]) for name in columns}
    )
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def write_history(history: Iterable[MetaIteration], path: Path) -> Path:
    """Write a file in the format of its suffix, .csv or .parquet.

    Raises:
        DrmadError: another suffix, or Parquet without pyarrow.
    """
    require_suffix(path)
    if path.suffix == ".csv":
        path.write_text(history_csv(history), encoding="utf-8")
        return path
    try:
        path.write_bytes(history_parquet(history))
    except ImportError as error:
        raise DrmadError(
            f"Parquet needs pyarrow ({error}): pip install 'drmad[parquet]', or write .csv"
        ) from error
    return path


def require_suffix(path: Path) -> None:
    """Raises UsageError unless the name of the file says a format that `write_history` knows."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"the file must end in {' or '.join(SUFFIXES)}, got {path.name}")


def _column(pyarrow: Any, values: Sequence[Any]) -> Any:
    """Numbers as doubles where one of them is none of the whole numbers; mixtures as JSON."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    known = [v for v in values if v is not None]
    if len(numbers) == len(known) and any(isinstance(v, float) for v in numbers):
        return pyarrow.array(values, pyarrow.float64())
    if len({type(v) for v in known}) > 1 or any(isinstance(v, list) for v in known):
        return pyarrow.array([None if v is None else json.dumps(v) for v in values])
    return pyarrow.array(values)
