"""The rows of the list of jobs: a job, or a group of jobs that is folded into one row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drmad_client.records.group import GroupRecord, GroupRow, group_record
from drmad_client.records.job import JobRecord
from drmad_client.records.status import JobStatus
from drmad_client.spec.groups import GROUP
from drmad_service.store.overview import OF_METRIC

MOST_MEMBERS = 100
"""Jobs of a folded group that a page lists; the filter by its tag lists all of them."""


_TEST_FIGURES = ("test_error", "test_accuracy", "test_loss")


@dataclass(frozen=True)
class JobRow:
    """One row.

    Attributes:
        jobs: the job, or the members of the group, in the order of the list.
        group: what the members have in common; None for a single job.
    """

    jobs: list[JobRecord]
    group: GroupRecord | None = None

    @property
    def shown(self) -> list[JobRecord]:
        return self.jobs[:MOST_MEMBERS]

    @property
    def title(self) -> str:
        """The name that all members have, or the name of the group."""
        names = {job.name for job in self.jobs}
        return names.pop() if len(names) == 1 or self.group is None else self.group.name

    @property
    def best(self) -> GroupRow | None:
        """The setting of lowest mean loss; None until one of its jobs has succeeded."""
        rows = self.group.rows if self.group else []
        return min((row for row in rows if row.mean is not None), key=_mean, default=None)

    def metric(self, name: str) -> float | None:
        """Mean of a metric over the succeeded jobs of the best setting; None if one lacks it."""
        best = self.best
        of_best = [
            job.best.metrics
            for job in self.jobs
            if best is not None
            and job.id in best.jobs
            and job.status is JobStatus.SUCCEEDED
            and job.best is not None
        ]
        if not of_best or not all(name in metrics for metrics in of_best):
            return None
        return statistics.fmean(metrics[name] for metrics in of_best)

    def test_figure(self) -> tuple[str, float] | None:
        """Name and mean of the test figure, as `metric`."""
        found = ((name, self.metric(name)) for name in _TEST_FIGURES)
        return next(((name, mean) for name, mean in found if mean is not None), None)


def test_figure(job: JobRecord) -> tuple[str, float] | None:
    """Name and value of the test figure that a list shows of a job."""
    metrics = job.best.metrics if job.best else {}
    return next(((name, metrics[name]) for name in _TEST_FIGURES if name in metrics), None)


def metrics(jobs: Sequence[JobRecord]) -> list[str]:
    """The names of the metrics that the best meta-iterations of jobs have, in order."""
    return sorted({name for job in jobs if job.best for name in job.best.metrics})


def folded(jobs: Sequence[JobRecord], is_folded: bool = True) -> list[JobRow]:
    """One row for each job; the jobs of a group share the row of the first of them."""
    members: dict[str, list[JobRecord]] = {}
    rows: list[JobRow] = []
    for job in jobs:
        name = job.tags.get(GROUP)
        if name is None or not is_folded:
            rows.append(JobRow([job]))
        elif name in members:
            members[name].append(job)
        else:
            members[name] = [job]
            rows.append(JobRow(members[name]))
    return [
        JobRow(row.jobs, group_record(row.jobs[0].tags[GROUP], row.jobs))
        if len(row.jobs) > 1
        else row
        for row in rows
    ]


def ordered(
    rows: Sequence[JobRow], order: str, key: Callable[[JobRecord], Any], reverse: bool
) -> list[JobRow]:
    """The rows by what they show; those that show no figure come last.

    A group has its own name, the mean loss, test figure and metrics of its best setting, and else
    what its first job has.
    """

    def of_row(row: JobRow) -> Any:
        if row.group is not None and order == "name":
            return row.title.lower()
        if row.group is not None and order == "best":
            return row.best.mean if row.best else None
        if row.group is not None and order == "test":
            figure = row.test_figure()
            return (
                None if figure is None else 1 - figure[1] if "accuracy" in figure[0] else figure[1]
            )
        if row.group is not None and order.startswith(OF_METRIC):
            return row.metric(order.removeprefix(OF_METRIC))
        return key(row.jobs[0])

    known = [row for row in rows if of_row(row) is not None]
    known.sort(key=of_row, reverse=reverse)
    return known + [row for row in rows if of_row(row) is None]


def permitted(job: JobRecord, may_change: bool) -> list[str]:
    """The actions on several jobs that the reader's key may do to this one in its state."""
    if not may_change:
        return []
    if not job.status.is_terminal:
        return ["tag", "cancel"]
    return ["tag", "restore" if job.archived_at else "archive", "delete"]


def _mean(row: GroupRow) -> float:
    assert row.mean is not None
    return row.mean
