"""A group of jobs in one table: the mean over the seeds of each setting, with its interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.job import JobRecord
from drmad_client.records.status import JobStatus
from drmad_client.spec.groups import SWEPT
from drmad_client.student import quantile


class GroupRow(Record):
    """The jobs of one setting of a group, which differ by their seeds."""

    setting: dict[str, str] = Field(description="Swept values by the path of their field.")
    jobs: list[str] = Field(description="Ids of the jobs, by seed.")
    succeeded: int = Field(description="How many of them have succeeded; the means are over them.")
    mean: float | None = Field(
        default=None, description="Mean of their best validation losses; null where none has one."
    )
    low: float | None = Field(
        default=None,
        description="Lower end of its interval at 95 % by Student's t; null below two jobs.",
    )
    high: float | None = Field(default=None, description="Upper end of its interval.")


class GroupRecord(Record):
    """A group: its jobs by state, and one row for each setting."""

    name: str
    jobs: dict[JobStatus, list[str]] = Field(
        description="Ids of the jobs by their state, in the order of their submission."
    )
    rows: list[GroupRow] = Field(description="The settings, in the order of their submission.")


def group_record(name: str, jobs: Iterable[JobRecord]) -> GroupRecord:
    members = sorted(jobs, key=lambda job: job.id)
    by_state: dict[JobStatus, list[str]] = {}
    for job in members:
        by_state.setdefault(job.status, []).append(job.id)
    return GroupRecord(name=name, jobs=by_state, rows=group_rows(members))


def group_rows(jobs: Iterable[JobRecord]) -> list[GroupRow]:
    """One row for each setting, in the order in which they were submitted."""
    settings: dict[tuple[tuple[str, str], ...], list[JobRecord]] = {}
    for job in sorted(jobs, key=lambda job: job.id):
        swept = {k.removeprefix(SWEPT): v for k, v in job.tags.items() if k.startswith(SWEPT)}
        settings.setdefault(tuple(sorted(swept.items())), []).append(job)
    return [_row(dict(setting), members) for setting, members in settings.items()]


def _row(setting: dict[str, str], jobs: list[JobRecord]) -> GroupRow:
    done = [job for job in jobs if job.status is JobStatus.SUCCEEDED]
    losses = [job.best.validation_loss for job in done if job.best is not None]
    mean = statistics.fmean(losses) if losses else None
    low = high = None
    if mean is not None and len(losses) > 1:
        error = statistics.stdev(losses) / math.sqrt(len(losses))
        half = quantile(len(losses) - 1) * error
        low, high = mean - half, mean + half
    ids = [job.id for job in jobs]
    return GroupRow(setting=setting, jobs=ids, succeeded=len(done), mean=mean, low=low, high=high)
