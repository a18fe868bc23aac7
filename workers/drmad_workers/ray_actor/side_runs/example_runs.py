"""What a worker shows of training examples; see drmad_client.records.side_runs.examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drmad_client.plots.learned_values import image_shape
from drmad_client.spec.job import JobSpec
from drmad_workers.attribution.attribution import groups_of
from drmad_workers.attribution.example_views import views_of
from drmad_workers.errors import ProblemError
from drmad_workers.replica import Replica


def shown(
    spec: JobSpec, replica: Replica, rows: Sequence[int], with_groups: bool
) -> dict[str, Any]:
    """The fields of ShownExamples: the examples at `rows`, and the groups of all rows.

    Raises:
        ProblemError: there is no such row.
    """
    count = replica.train_examples.rows
    if rows and not 0 <= min(rows) <= max(rows) < count:
        raise ProblemError(f"rows must be from 0 to {count - 1}, got {list(rows)}", "rows")
    found: dict[str, Any] = {"views": views_of(replica, rows, image_shape(spec)), "groups": {}}
    if with_groups:
        numbers, labels = groups_of(replica, count)
        found["groups"] = {
            name: {"labels": labels[name], "numbers": numbers[name].tolist()} for name in numbers
        }
    return found
