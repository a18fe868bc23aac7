"""Data sets on a device, read by position."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from drmad_workers import trees
from drmad_workers.data.columns import Columns, Rows, columns_of, require_rows
from drmad_workers.data.items import Items
from drmad_workers.data.read_ahead import AHEAD, ReadAhead, Wanted
from drmad_workers.devices import placed
from drmad_workers.distributed.workers import Workers, own_rows
from drmad_workers.problem import Batch, Collate, Data, is_pair

HELD_OUT_AHEAD = 1
"""The passes of held-out data that each process reads ahead, of more rows than a minibatch."""


class Examples:
    """A data set on a device, read by position.

    Data that are tensors, and items that join to tensors with a row each, are kept on the device.
    Other items are collated for every minibatch.

    Attributes:
        rows: the number of examples.
        positions: the positions in the data set of a part's rows, shape (rows,); None for a whole
            data set.
        draws: whether the seeds that `take` is given make a difference.
        is_uniform: whether every minibatch consists of tensors with one row per example.
        ahead: reads minibatches in other processes; None if the data lie in memory, or no process
            was asked for.
    """

    def __init__(
        self,
        data: Data,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        seed: int = 0,
        collate_fn: Collate | None = None,
        fixed: bool = True,
        workers: int = 0,
    ) -> None:
        """`workers` is the number of processes that may read; see Items for the other arguments."""
        self.device = device
        self._dtype = dtype
        self.positions: Tensor | None = None
        self.ahead: ReadAhead | None = None
        content = columns_of(data)
        if content is not None:
            require_rows(content, name)
        if content is not None and collate_fn is None:
            self._source: Columns | Items = Columns(self._place(content))
        else:
            data = data if content is None else Rows(content)
            self._source = items = Items(data, name, seed, collate_fn, fixed)
            content = items.joined()
            if content is not None:
                self._source = Columns(self._place(content))
            elif workers and not items.in_memory:
                self.ahead = ReadAhead(items, name, workers, HELD_OUT_AHEAD if fixed else AHEAD)
        self.rows = self._source.rows
        self.draws, self.is_uniform = self._source.draws, self._source.is_uniform

    def part(self, positions: Tensor | None) -> "Examples":
        """The rows at `positions`; the index of a batch still counts in the whole data set."""
        if positions is None:
            return self
        part = copy(self)
        part.positions = positions.to(self.device)
        part.rows = len(positions)
        return part

    def of_worker(self, workers: Workers) -> "Examples":
        """The rows that this worker computes, where several share the work."""
        if workers.size == 1:
            return self
        rows = torch.arange(self.rows, device=self.device)
        return self.part(own_rows(rows if self.positions is None else self.positions, workers))

    def all_inputs(self) -> Tensor | None:
        """The inputs of all rows, if the data are pairs whose inputs are one tensor in memory."""
        if not (isinstance(self._source, Columns) and is_pair(self._source.content)):
            return None
        inputs = self._source.content[0]
        return inputs if isinstance(inputs, Tensor) else None

    def take(self, index: Tensor, seeds: Sequence[int] | None = None) -> Batch:
        """The rows at `index`, shape (rows,), int64, on the device.

        `seeds` are those of the rows, for data that draw; see Minibatches.
        """
        content = self._source.take(index, seeds)
        if isinstance(self._source, Columns):
            return Batch(content, index)
        return self.placed(content, index)

    def read(self, rows: Sequence[int], seeds: Sequence[int] | None, collated: bool) -> Any:
        """The content of the minibatch of these rows, or its items, where processes may read it."""
        source, index = self._source, torch.tensor(rows)
        assert isinstance(source, Items)
        return source.take(index, seeds) if collated else source.read(index, seeds)

    def collate(self, items: Sequence[Any], seed: int, rows: Sequence[int]) -> Any:
        """See Items.collate."""
        assert isinstance(self._source, Items)
        return self._source.collate(items, seed, rows)

    def placed(self, content: Any, index: Tensor) -> Batch:
        """The minibatch of the rows at `index`, on the device, whose content has been read."""
        return Batch(self._place(content, pinned=True), index)

    def chunks(self, rows: int) -> Iterator[Batch]:
        """All examples in order, at most `rows` at a time."""
        for start in range(0, self.rows, rows):
            yield self.chunk(start, rows)

    def expect_chunks(self, rows: int) -> None:
        """States that all examples will be asked for by `chunk_ahead`, `rows` at a time."""
        if self.ahead is not None:
            self.ahead.expect(wanted_chunks(self.positions, self.rows, rows))

    def chunk_ahead(self, start: int, rows: int) -> Batch:
        """As `chunk`, by other processes where they read ahead."""
        if self.ahead is not None:
            index = self._chunk_index(start, rows)
            (content,) = self.ahead.take([tuple(index.tolist())])
            if content is not None:
                return self.placed(content, index)
        return self.chunk(start, rows)

    def chunk(self, start: int, rows: int) -> Batch:
        """A copy of at most `rows` examples from `start` on, which a model may overwrite."""
        return self.take(self._chunk_index(start, rows))

    def _chunk_index(self, start: int, rows: int) -> Tensor:
        index = torch.arange(start, min(start + rows, self.rows), device=self.device)
        return index if self.positions is None else self.positions[index]

    def _place(self, content: Any, pinned: bool = False) -> Any:
        return trees.mapped_tensors(
            lambda tensor: placed(tensor.detach(), self.device, self._dtype, pinned), content
        )


def wanted_chunks(positions: Tensor | None, total: int, rows: int) -> Iterator[Wanted]:
    """The chunks of `total` rows, in order; see Examples.part for the positions."""
    for start in range(0, total, rows):
        index = torch.arange(start, min(start + rows, total))
        found = tuple((index if positions is None else positions.cpu()[index]).tolist())
        yield Wanted(found, found, None, collated=True)
