"""What a handle shows of its job without a request."""

from __future__ import annotations

import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from drmad_client.errors import BadArgument, JobWarning
from drmad_client.http.job_html import as_html
from drmad_client.packing.packed_problem import PackedProblem
from drmad_client.records.job import Best, Doubt, JobError, JobRecord, Progress
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.side_runs.confirmation import Confirmation
from drmad_client.records.status import JobStatus, Transition
from drmad_client.spec.job import JobSpec

if TYPE_CHECKING:
    import pandas


class History(list[MetaIteration]):
    """The meta-iterations of a job, in order."""

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row per meta-iteration; nested fields have columns such as metrics.test_error.

        Raises:
            ImportError: pandas is not installed; `pip install pandas` installs it.
        """
        import pandas

        from drmad_client.export.job_folder import history_rows

        return pandas.DataFrame(history_rows(self))

    def write(self, path: Path | str) -> Path:
        """Write a file in the format of its suffix, .csv or .parquet; return its path.

        Raises:
            DrmadError: Another suffix, or Parquet without pyarrow.
        """
        from drmad_client.export.history_table import write_history

        return write_history(self, Path(path))


class JobView:
    """The fields of a job as of the last request that fetched it.

    Attributes:
        record: The job as the service answered it.
        packed: What was packed, if this handle is that of `jobs.create(spec, problem=...)`.
    """

    def __init__(self, record: JobRecord) -> None:
        self.record = record
        self.packed: PackedProblem | None = None
        self._passed_on: set[str] = set()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def status(self) -> JobStatus:
        return self.record.status

    @property
    def reason(self) -> str:
        """The reason for the last transition, as a word that programs can compare."""
        return self.record.reason

    @property
    def message(self) -> str:
        """The last transition in words, or why the job is queued."""
        return self.record.message

    @property
    def progress(self) -> Progress:
        return self.record.progress

    @property
    def best(self) -> Best | None:
        """The best meta-iteration, with the figures and intervals of its confirmation."""
        return self.record.best

    @property
    def confirmation(self) -> Confirmation | None:
        """What retraining at the end of the job says of its result."""
        return self.record.confirmation

    @property
    def warnings(self) -> list[Doubt]:
        """What makes the figures of the job doubtful, and what did not go as asked."""
        return self.record.warnings

    @property
    def error(self) -> JobError | None:
        """The root cause of the failure, if the job failed."""
        return self.record.error

    @property
    def tags(self) -> dict[str, str]:
        return self.record.tags

    @property
    def spec(self) -> JobSpec:
        """The spec that was submitted, with its defaults."""
        return self.record.spec

    @property
    def labels(self) -> dict[str, list[str]]:
        """The label of every entry by hyperparameter, such as the sources of a `sample_weight`.

        A hyperparameter is missing if its entries have no labels of their own, or exceed 128.
        """
        return {
            info.name: [group.label for group in info.groups]
            for info in self.record.hyperparameters
            if info.groups and all(group.stop - group.start == 1 for group in info.groups)
        }

    @property
    def transitions(self) -> list[Transition]:
        return self.record.transitions

    @property
    def created_at(self) -> datetime:
        return self.record.created_at

    @property
    def started_at(self) -> datetime | None:
        return self.record.started_at

    @property
    def finished_at(self) -> datetime | None:
        return self.record.finished_at

    def _pass_warnings_on(self) -> None:
        """Pass each warning of the job on to Python's warnings, once."""
        for doubt in self.record.warnings:
            if doubt.message not in self._passed_on:
                self._passed_on.add(doubt.message)
                # The callers are `wait` of the handle and, above it, the user's line.
                warnings.warn(f"{self.id}: {doubt.message}", JobWarning, stacklevel=3)

    def _or_best(self, iteration: int | None) -> int:
        if iteration is not None:
            return iteration
        if self.best is None:
            raise BadArgument(
                f"{self.id} has no best meta-iteration yet; give `iteration`, or reload the job"
            )
        return self.best.iteration

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobView) and self.record == other.record

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        done = f"{self.progress.iteration}/{self.progress.iterations}"
        return f"<{type(self).__name__} {self.id} {self.name!r} {self.status} {done}>"

    def _repr_html_(self) -> str:
        return as_html(self.record, self.packed.summary if self.packed else "")
