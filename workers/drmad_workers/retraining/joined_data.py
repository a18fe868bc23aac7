"""A problem that trains on its training and its validation rows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from drmad_workers import trees
from drmad_workers.data.columns import Rows, columns_of
from drmad_workers.errors import ProblemError
from drmad_workers.problem import Column, Data, Problem

VALIDATION = "\uffffvalidation"
"""The value of the validation rows in a column of strings; it sorts after every other value."""


def with_validation(problem: Problem) -> Problem:
    """The problem whose training rows are those of `train`, and after them those of `valid`.

    In its columns the validation rows have a value of their own, which sorts last.

    Raises:
        ProblemError: the problem has no test data, so that no row would be left to measure on.
    """
    if problem.test is None:
        raise ProblemError(
            "with_validation must leave data to measure on, and the problem has no test data: give "
            "it some, or train on the training rows alone",
            "with_validation",
        )
    rows = len(_rows(problem.valid))
    columns = {name: _extended(column, rows) for name, column in problem.columns.items()}
    return replace(problem, train=joined(problem.train, problem.valid), columns=columns)


def joined(first: Data, second: Data) -> Data:
    """The rows of the first data, and after them those of the second.

    Raises:
        ProblemError: both are structures of tensors, and not of the same ones.
    """
    one, other = columns_of(first), columns_of(second)
    if one is None or other is None:
        return ConcatDataset([_rows(first), _rows(second)])
    ways = [[way for way, _ in trees.leaves(content)] for content in (one, other)]
    if ways[0] != ways[1]:
        raise ProblemError(
            "with_validation needs training and validation data of the same structure, got "
            f"{ways[0]} and {ways[1]}",
            "with_validation",
        )
    pairs = zip(trees.tensors_of(one), trees.tensors_of(other), strict=True)
    return trees.with_tensors(one, [torch.cat([a.cpu(), b.cpu()]) for a, b in pairs])


def _rows(data: Data) -> Data:
    """The data as a map-style data set."""
    content = columns_of(data)
    return data if content is None else Rows(content)


def _extended(column: Column, rows: int) -> Sequence[str | int]:
    values = column.tolist() if isinstance(column, Tensor) else np.asarray(column).tolist()
    last = VALIDATION if isinstance(values[0], str) else max(values) + 1
    return [*values, *[last] * rows]
