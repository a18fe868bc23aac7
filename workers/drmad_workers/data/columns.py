"""Data whose examples are the rows of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from drmad_workers import trees
from drmad_workers.errors import ProblemError
from drmad_workers.problem import Data

ACCEPTED = (
    "tensors with one row per example (a pair (inputs, targets), or a dict, tuple or dataclass of "
    "tensors), or a map-style data set"
)
"""What the data of a problem may be."""


class Columns:
    """A structure of tensors, each of which has a row for every example.

    Attributes:
        content: the structure with all rows.
        rows: the number of examples.
        draws, is_uniform: see Items.
    """

    draws = False
    is_uniform = True

    def __init__(self, content: Any) -> None:
        self.content = content
        self.rows = len(trees.tensors_of(content)[0])

    def take(self, index: Tensor, seeds: Sequence[int] | None = None) -> Any:
        """A copy of the rows at `index`, shape (rows,), int64, on the device of the tensors."""
        return trees.mapped_tensors(lambda column: column.index_select(0, index), self.content)


class Rows:
    """The rows of tensors as the items of a map-style data set."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(trees.tensors_of(self._content)[0])

    def __getitem__(self, row: int) -> Any:
        return trees.mapped_tensors(lambda column: column[row], self._content)


def columns_of(data: Data) -> Any:
    """The structure of tensors that the data are; None for a data set of items.

    A list is a data set of items, unless it is a pair (inputs, targets).
    """
    if isinstance(data, TensorDataset):
        return data.tensors
    if isinstance(data, list):
        return data if len(data) == 2 and isinstance(data[0], Tensor) else None
    if isinstance(data, tuple):
        return data if trees.tensors_of(data) else None
    if isinstance(data, Mapping | Tensor):
        return data
    return data if is_dataclass(data) and not hasattr(data, "__getitem__") else None


def require_rows(content: Any, name: str) -> Any:
    """Returns the structure; raises ProblemError unless its leaves are tensors of equal rows."""
    lengths: dict[str, int] = {}
    for way, leaf in trees.leaves(content):
        if not isinstance(leaf, Tensor):
            kind = type(leaf).__name__
            raise ProblemError(f"{name} must be {ACCEPTED}, got {kind} at {name}{way}", name)
        require_dense(leaf, name)
        if leaf.ndim == 0:
            raise ProblemError(f"{name} must have one row per example, got a single number", name)
        lengths[f"{name}{way}"] = len(leaf)
    if not lengths:
        raise ProblemError(f"{name} must be {ACCEPTED}, got {type(content).__name__}", name)
    if len(set(lengths.values())) > 1:
        got = " and ".join(f"{rows} in {way}" for way, rows in lengths.items())
        raise ProblemError(f"all tensors of {name} must have as many rows, got {got}", name)
    if 0 in lengths.values():
        raise ProblemError(f"{name} must hold at least one example, got none", name)
    return content


def require_dense(tensor: Tensor, name: str) -> None:
    if tensor.is_nested or tensor.layout != torch.strided:
        remedy = "pad the rows to one length" if tensor.is_nested else "call .to_dense()"
        what = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
        raise ProblemError(f"{name} must hold dense tensors, got {what}: {remedy}", name)


def are_rows(content: Any, rows: int) -> bool:
    """Whether all leaves are tensors with `rows` rows."""
    return all(
        isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == rows
        for _, leaf in trees.leaves(content)
    )
