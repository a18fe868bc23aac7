"""The queries of an attribution: the losses whose origin in the training data is asked for."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drmad_client.spec.side_runs.queries import parse_query
from drmad_workers.application import loss_of, targets_of
from drmad_workers.errors import ProblemError
from drmad_workers.objective.objective import Objective
from drmad_workers.problem import AllRows, Batch, Loss
from drmad_workers.replica import Replica

ROWS = 4096
"""The examples whose classes are read at a time."""


@dataclass(frozen=True, eq=False)
class Query:
    """A number that is a mean over rows of the validation data, taken at w_T.

    Attributes:
        label: its name.
        rows: the positions of the rows, int64; None for all of them.
        measure: (outputs, targets or content) -> the value of every row, or its mean; lower is
            better. None is the problem's held-out objective.
    """

    label: str
    rows: Tensor | None = None
    measure: Loss | None = None

    def of(self, objective: Objective) -> Callable[[Batch], Tensor]:
        """The mean over a batch, shape ()."""
        measure = self.measure
        if measure is None:
            return objective.losses.outer

        def mean(batch: Batch) -> Tensor:
            outputs = objective.losses.outputs(batch)
            value: Tensor = loss_of(measure, outputs, batch.content).mean()
            if not (value.requires_grad or not torch.is_grad_enabled()):
                raise ProblemError(
                    f"{self.label} must have a derivative by the weights, and it has none: state a "
                    "smooth measure, such as a log-probability or a margin, in the place of an "
                    "error rate",
                    "attribution.queries",
                )
            return value.to(objective.parameters.dtype)

        return mean


def queries_of(asked: Sequence[str], replica: Replica) -> list[Query]:
    """The queries of a job; see drmad_client.spec.side_runs.attribution.

    Raises:
        ProblemError: there is no such row, class or metric.
    """
    found: list[Query] = []
    for text in asked:
        kind, argument = parse_query(text)
        rows = replica.valid_examples.rows
        if kind == "valid":
            found.append(Query("valid"))
        elif kind == "each":
            found += [_row(row) for row in range(rows)]
        elif kind == "rows":
            assert isinstance(argument, list)
            beyond = [row for row in argument if row >= rows]
            if beyond:
                raise _refused(
                    f"rows must lie below {rows}, the number of validation rows, got {beyond[0]}"
                )
            found += [_row(row) for row in argument]
        elif kind == "measure":
            assert isinstance(argument, str)
            found.append(_measured(argument, replica))
        else:
            classes = _classes(replica)
            wanted = [int(argument)] if isinstance(argument, int) else range(int(classes.max()) + 1)
            for number in wanted:
                positions = (classes == number).nonzero()[:, 0]
                if len(positions):
                    found.append(Query(f"class {number}", positions))
                elif kind == "class":
                    raise _refused(f"class:{number} must have validation rows, and it has none")
    labels = [query.label for query in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise _refused(f"queries must differ, got {twice!r} twice: leave one out")
    return found


def _row(row: int) -> Query:
    return Query(f"row {row}", torch.tensor([row]))


def _measured(name: str, replica: Replica) -> Query:
    metrics = replica.objective.problem.metrics
    metric = metrics.get(name)
    if metric is None or isinstance(metric, AllRows):
        means = [key for key, each in metrics.items() if not isinstance(each, AllRows)]
        raise _refused(
            f"measure must name a metric of the problem that is a mean over the rows, one of "
            f"{', '.join(means) or 'none that it has'}, got {name!r}: add it to Problem(metrics=..)"
        )
    return Query(f"measure {name}", None, metric)


def _classes(replica: Replica) -> Tensor:
    """The class of every validation row, shape (rows,), int64, on the CPU."""
    classes = classes_in(replica, replica.valid_examples.chunks(ROWS))
    if classes is None:
        raise _refused(
            "queries by class need targets that are class numbers, shape (rows,), int64: ask for "
            "rows, or state the problem's targets, content -> classes"
        )
    return classes


def classes_in(replica: Replica, batches: Iterable[Batch]) -> Tensor | None:
    """The classes of all rows of the batches, shape (rows,), int64, on the CPU; None without."""
    problem = replica.objective.problem
    found = [targets_of(problem, batch.content) for batch in batches]
    classes = [part.cpu() for part in found if part is not None]
    if len(classes) < len(found) or any(c.dtype != torch.int64 or c.ndim != 1 for c in classes):
        return None
    return torch.cat(classes)


def _refused(message: str) -> ProblemError:
    return ProblemError(message, "attribution.queries")
