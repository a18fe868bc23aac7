"""What a mirror of a job's history in another tool offers, and the scalars that it writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

from drmad_client.export.job_folder import history_rows
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration


class Mirror(Protocol):
    """One tool that a job's history is written to."""

    def begin(self, job: JobRecord) -> int:
        """Open the mirror; return the number of meta-iterations that it already holds."""

    def record(self, record: MetaIteration) -> None: ...

    def end(self, job: JobRecord, folder: Path) -> None:
        """Close the mirror. `folder` holds the job's arrays, history and spec."""


def scalars(record: MetaIteration) -> dict[str, float]:
    """The finite numbers of a meta-iteration by name, except its own number."""
    (row,) = history_rows([record])
    return {
        name: float(value)
        for name, value in row.items()
        if name != "iteration"
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }
