"""Examples, and minibatches that can be drawn again.

Minibatch t of replica r in meta-iteration n is a function of (seed, n, r, t) alone, so the
backward pass regenerates what the forward pass saw, and a job that resumes sees the same.
"""

from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from drmad_workers.errors import ProblemError
from drmad_workers.problem import Batch, Data

IN_MEMORY_BYTES = 2**30
"""A map-style data set up to this size is read once and kept as two tensors."""

MINIBATCHES, WEIGHTS, NOISE = 1, 2, 3
"""Purposes of a random stream: what is drawn for one never depends on another."""


def seed_of(purpose: int, *numbers: int) -> int:
    """A 63-bit seed that is a function of the purpose and the numbers (all at least 0) alone."""
    sequence = np.random.SeedSequence([purpose, *numbers])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class Examples:
    """A data set on a device: rows by position.

    Attributes:
        rows: how many there are.
        positions: of a part, where its rows stand in the data set, shape (rows,); else None.
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
        """These rows alone; a batch of them still tells where they stand in the data set."""
        if positions is None:
            return self
        part = copy(self)
        part.positions = positions.to(self.device)
        part.rows = len(positions)
        return part

    def all_inputs(self) -> Tensor | None:
        """Inputs of all rows; None where the data set is too large to be held."""
        return self.inputs if self._items is None else None

    def all_targets(self) -> Tensor | None:
        """Likewise."""
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


class Minibatches:
    """The minibatches of one training run: shuffled epochs without replacement, random access.

    The rows left over at the end of an epoch are not used in that epoch, so that every minibatch
    has `batch_size` rows and the mean over joined minibatches is the mean of their means.

    Attributes:
        per_epoch: minibatches in an epoch.
    """

    def __init__(self, examples: Examples, batch_size: int, stream: tuple[int, int, int]) -> None:
        """`stream` is (seed, meta-iteration, replica)."""
        if not 1 <= batch_size <= examples.rows:
            held = "" if examples.positions is None else " that a replica holds"
            raise ProblemError(
                f"batch_size must be between 1 and the number of training examples "
                f"({examples.rows}{held}), got {batch_size}",
                "training.batch_size",
            )
        self.batch_size = batch_size
        self._examples = examples
        self._stream = stream
        self.per_epoch = examples.rows // batch_size
        self._orders: dict[int, Tensor] = {}

    def join(self, step: int, count: int = 1, every: int = 1) -> Batch:
        """The minibatches of the steps `step` .. `step + count - 1`, joined into one.

        Of every so many of them the first alone.
        """
        return self._examples.take(self.index(step, count, every))

    def index(self, step: int, count: int = 1, every: int = 1) -> Tensor:
        """Positions of their examples, shape (⌈count / every⌉ × batch size,)."""
        if count <= every:
            return self._index(step)
        return torch.cat([self._index(step + i) for i in range(0, count, every)])

    def step_seed(self, step: int) -> int:
        """Seed of the random numbers that the model draws in this step (dropout)."""
        return seed_of(NOISE, *self._stream, step)

    def _index(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.per_epoch)
        order = self._orders.get(epoch)
        if order is None:
            # A walk in either direction touches few epochs at a time; small ones are kept.
            if len(self._orders) >= 4:
                self._orders.pop(next(iter(self._orders)))
            draw = np.random.Generator(np.random.PCG64(seed_of(MINIBATCHES, *self._stream, epoch)))
            order = torch.from_numpy(draw.permutation(self._examples.rows)).to(
                self._examples.device
            )
            if self._examples.positions is not None:
                order = self._examples.positions[order]
            self._orders[epoch] = order
        start = position * self.batch_size
        return order[start : start + self.batch_size]
