"""The targets of a table: what kind they are, and their values as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drmad_workers.catalog import tasks
from drmad_workers.catalog.table_columns import NumericColumn, numbers_of, texts_of
from drmad_workers.catalog.tasks import Task
from drmad_workers.errors import ProblemError

if TYPE_CHECKING:
    import pandas as pd

FIELD = "problem.data.target"
MAX_CLASSES = 10_000
"""Bounds the classes of a target."""


@dataclass(frozen=True)
class Targets:
    """The targets of all rows.

    Attributes:
        task: what is predicted.
        values: class numbers, shape (rows,), int64; or labels of 0 and 1 or standardised numbers,
            shape (rows, targets), float32.
        labels: the classes in the order of their numbers; the names of labels or numbers otherwise.
        means, scales: what standardised the numbers of a regression, one per target.
    """

    task: Task
    values: Tensor
    labels: tuple[str, ...]
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()


def encoded_targets(
    frame: pd.DataFrame, names: Sequence[str], stated: str | None, train: NDArray[np.int64]
) -> Targets:
    """The targets under the stated task, or under the one that their values leave no doubt about.

    Args:
        frame: all rows.
        names: the columns of the targets.
        stated: the task; None infers it.
        train: the training rows, by which numbers are standardised.
    Raises:
        ProblemError: a target is missing or does not fit the task, or the task must be stated.
    """
    for name in names:
        missing = frame[name].isna().to_numpy(dtype=bool)
        if missing.any():
            raise ProblemError(
                f"the target {name!r} must have a value in every row, got none in row "
                f"{int(missing.argmax()) + 1} ({int(missing.sum())} such rows): remove these rows",
                FIELD,
            )
    task = stated or inferred_task(frame, names)
    if task in ("classification", "binary"):
        return classes_of(frame, names[0], task)
    table = np.stack([numbers_of(frame[name], name, FIELD) for name in names], axis=1)
    if task == "multilabel":
        return labels_of(table, names)
    columns = [
        NumericColumn.fitted(name, table[train, number], True, "refuse")
        for number, name in enumerate(names)
    ]
    means, scales = ([getattr(c, what) for c in columns] for what in ("mean", "scale"))
    return Targets(
        tasks.regression(names, scales),
        torch.from_numpy(((table - means) / scales).astype(np.float32)),
        tuple(names),
        tuple(means),
        tuple(scales),
    )


def inferred_task(frame: pd.DataFrame, names: Sequence[str]) -> str:
    """The task that the values of the targets leave no doubt about.

    Two values are a binary task, other text is classes, and numbers of which one has a fraction are
    a regression. Several columns of 0 and 1 are labels, and other numbers a regression.

    Raises:
        ProblemError: the values are whole numbers, which may be classes or amounts.
    """
    if len(names) == 1 and frame[names[0]].nunique() == 2:
        return "binary"
    columns = [numbers_or_none(frame[name]) for name in names]
    numeric = [column for column in columns if column is not None]
    if len(numeric) < len(columns):
        if len(names) == 1:
            return "classification"
        text = next(name for name, column in zip(names, columns, strict=True) if column is None)
        raise ProblemError(
            f"several targets must be numbers, got text in {text!r}: name one target", FIELD
        )
    if len(names) > 1:
        labels = all(np.isin(column, (0, 1)).all() for column in numeric)
        return "multilabel" if labels else "regression"
    if (numeric[0] % 1 != 0).any():
        return "regression"
    raise ProblemError(
        f"the target {names[0]!r} has whole numbers, which may be classes or amounts: state task: "
        "classification or task: regression",
        "problem.data.task",
    )


def numbers_or_none(column: pd.Series[float]) -> NDArray[np.float64] | None:
    try:
        return numbers_of(column, str(column.name), FIELD)
    except ProblemError:
        return None


def classes_of(frame: pd.DataFrame, name: str, task: str) -> Targets:
    """Class numbers in the order of the numbers, or in alphabetical order."""
    values = texts_of(frame[name])
    numbers = numbers_or_none(frame[name])
    rank = {} if numbers is None else dict(zip(values, numbers.tolist(), strict=True))
    known = sorted(set(values), key=lambda text: rank.get(text, text))
    fits = len(known) == 2 if task == "binary" else 2 <= len(known) <= MAX_CLASSES
    if not fits:
        wanted = "two values" if task == "binary" else f"2 to {MAX_CLASSES} classes"
        raise ProblemError(
            f"the target {name!r} must have {wanted} for task {task}, got {len(known)}: state "
            "another task",
            FIELD,
        )
    number = {label: i for i, label in enumerate(known)}
    classes = torch.tensor([number[value] for value in values])
    made = tasks.binary() if task == "binary" else tasks.classification(len(known))
    return Targets(made, classes, tuple(known))


def labels_of(table: NDArray[np.float64], names: Sequence[str]) -> Targets:
    wrong = ~np.isin(table, (0, 1))
    if wrong.any():
        row, column = map(int, np.argwhere(wrong)[0])
        raise ProblemError(
            f"the target {names[column]!r} must be 0 or 1 in every row for task multilabel, got "
            f"{table[row, column]:g} in row {row + 1}: state task: regression, or correct the file",
            FIELD,
        )
    values = torch.from_numpy(table.astype(np.float32))
    return Targets(tasks.multilabel(names), values, tuple(names))
