"""Data sets on a device, read by position."""

from collections.abc import Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

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

    def __init__(self, data: Data, name: str, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self._dtype = dtype
        self._items: Any = None
        self.positions: Tensor | None = None
        if isinstance(data, TensorDataset):
            data = data.tensors
        if not (isinstance(data, tuple | list) and len(data) == 2 and torch.is_tensor(data[0])):
            data = self._read(data, name)
        if data is not None:
            inputs, targets = data
            if len(inputs) != len(targets):
                raise ProblemError(
                    f"{name} must have as many targets as inputs, got {len(inputs)} inputs and "
                    f"{len(targets)} targets",
                    name,
                )
            self.inputs, self.targets = self._place(inputs), self._place(targets)
        self.rows = len(self._items) if self._items is not None else len(self.inputs)
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
            inputs, targets = default_collate([self._items[i] for i in index.tolist()])
            inputs, targets = self._place(inputs), self._place(targets)
        return Batch(inputs, targets, index)

    def chunks(self, rows: int) -> Iterator[Batch]:
        """All examples in order, at most `rows` at a time."""
        for start in range(0, self.rows, rows):
            index = torch.arange(start, min(start + rows, self.rows), device=self.device)
            if self.positions is not None:
                yield self.take(self.positions[index])
            elif self._items is None:
                stop = start + rows
                yield Batch(self.inputs[start:stop], self.targets[start:stop], index)
            else:
                yield self.take(index)

    def _read(self, data: Data, name: str) -> tuple[Tensor, Tensor] | None:
        try:
            rows, first = len(data), data[0]
            inputs, targets = default_collate([first])
            size = rows * (inputs.numel() * inputs.element_size() + targets.element_size())
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise ProblemError(
                f"{name} must be a pair (inputs, targets) of tensors or a map-style data set of "
                f"(input, target), got {type(data).__name__} ({error})",
                name,
            ) from error
        if size > IN_MEMORY_BYTES:
            self._items = data
            return None
        inputs, targets = default_collate([data[i] for i in range(rows)])
        return inputs, targets

    def _place(self, tensor: Tensor) -> Tensor:
        dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(device=self.device, dtype=dtype)
