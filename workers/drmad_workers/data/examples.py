"""Data sets on a device, read by position."""

from collections.abc import Iterator
from copy import copy

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from drmad_workers.data.items import ACCEPTED, Items
from drmad_workers.devices import placed
from drmad_workers.errors import ProblemError
from drmad_workers.problem import Batch, Data

IN_MEMORY_BYTES = 2**30
"""Bounds the size of a map-style data set that is read once and kept as two tensors, in bytes."""


class Examples:
    """A data set on a device, read by position.

    Attributes:
        rows: the number of examples.
        positions: the positions in the data set of a part's rows, shape (rows,); None for a whole
            data set.
    """

    def __init__(
        self, data: Data, name: str, device: torch.device, dtype: torch.dtype, seed: int = 0
    ) -> None:
        """`seed` seeds what the items of a map-style data set draw; see Items."""
        self.device = device
        self._dtype = dtype
        self._items: Items | None = None
        self.positions: Tensor | None = None
        if isinstance(data, TensorDataset):
            data = data.tensors
        if not (isinstance(data, tuple | list) and len(data) == 2 and torch.is_tensor(data[0])):
            items = Items(data, name, seed)
            in_memory = items.bytes <= IN_MEMORY_BYTES
            data = items.read(range(items.rows)) if in_memory else None
            self._items = None if in_memory else items
        if data is not None:
            inputs, targets = (require_rows(part, name) for part in data)
            if len(inputs) != len(targets):
                raise ProblemError(
                    f"{name} must have as many targets as inputs, got {len(inputs)} inputs and "
                    f"{len(targets)} targets",
                    name,
                )
            self.inputs, self.targets = self._place(inputs), self._place(targets)
        self.rows = self._items.rows if self._items is not None else len(self.inputs)
        if self.rows == 0:
            raise ProblemError(f"{name} must hold at least one example, got none", name)

    def part(self, positions: Tensor | None) -> "Examples":
        """The rows at `positions`; the index of a batch still counts in the whole data set."""
        if positions is None:
            return self
        part = copy(self)
        part.positions = positions.to(self.device)
        part.rows = len(positions)
        return part

    def all_inputs(self) -> Tensor | None:
        """The inputs of all rows; None if the data set exceeds IN_MEMORY_BYTES."""
        return self.inputs if self._items is None else None

    def all_targets(self) -> Tensor | None:
        """The targets of all rows; None if the data set exceeds IN_MEMORY_BYTES."""
        return self.targets if self._items is None else None

    def take(self, index: Tensor) -> Batch:
        """The rows at `index`, shape (rows,), int64, on the device."""
        if self._items is None:
            inputs = self.inputs.index_select(0, index)
            targets = self.targets.index_select(0, index)
        else:
            inputs, targets = self._items.read(index.tolist())
            inputs, targets = self._place(inputs), self._place(targets)
        return Batch(inputs, targets, index)

    def chunks(self, rows: int) -> Iterator[Batch]:
        """All examples in order, at most `rows` at a time."""
        for start in range(0, self.rows, rows):
            yield self.chunk(start, rows)

    def chunk(self, start: int, rows: int) -> Batch:
        """A copy of at most `rows` examples from `start` on, which a model may overwrite."""
        stop = min(start + rows, self.rows)
        index = torch.arange(start, stop, device=self.device)
        if self.positions is not None:
            return self.take(self.positions[index])
        if self._items is None:
            return Batch(self.inputs[start:stop].clone(), self.targets[start:stop].clone(), index)
        return self.take(index)

    def _place(self, tensor: Tensor) -> Tensor:
        return placed(tensor.detach(), self.device, self._dtype)


def require_rows(data: object, name: str) -> Tensor:
    """Returns the tensor; raises ProblemError unless it is a dense tensor with an axis of rows."""
    if not isinstance(data, Tensor):
        raise ProblemError(f"{name} must be {ACCEPTED}, got {type(data).__name__} in a pair", name)
    if data.is_nested or data.layout != torch.strided:
        remedy = "pad the rows to one length" if data.is_nested else "call .to_dense()"
        what = "a nested tensor" if data.is_nested else f"layout {data.layout}"
        raise ProblemError(f"{name} must hold dense tensors, got {what}: {remedy}", name)
    if data.ndim == 0:
        raise ProblemError(f"{name} must have one row per example, got a single number", name)
    return data
