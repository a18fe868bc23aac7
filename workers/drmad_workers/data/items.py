"""A map-style data set, each item of which is read under a seed of its own."""

import sys
import traceback
from collections.abc import Iterator, MutableMapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from drmad_workers import trees
from drmad_workers.data.columns import ACCEPTED, are_rows
from drmad_workers.errors import ProblemError
from drmad_workers.global_generators import GeneratorStates, restored_generators, seed_all
from drmad_workers.problem import Collate, described
from drmad_workers.random_streams import Purpose, seed_of

IN_MEMORY_BYTES = 2**30
"""Bounds the size of a map-style data set that is read once and kept, in bytes."""
SAMPLED = 4
"""The number of items that are read twice before any training."""


def _no_data_set(data: Any, name: str) -> ProblemError:
    remedy = ""
    if isinstance(data, DataLoader):
        remedy = (
            ": state its dataset, its collate_fn as that of the problem, and training.batch_size"
        )
    elif isinstance(data, IterableDataset | Iterator):
        remedy = (
            ": the backward pass reads the rows of a minibatch again, so that each needs a number; "
            "read them into a list, or write them to a file that is read by row"
        )
    return ProblemError(f"{name} must be {ACCEPTED}, got {type(data).__name__}{remedy}", name)


class Items:
    """The items of a map-style data set, which a collate function joins to minibatches.

    An item is read with the global generators under a seed of its own, and the items of a minibatch
    are collated under one that follows from that of the first. What they draw is therefore the
    same in every process and in every order. Items that draw nothing, and those that are fixed, are
    read once if they fit into memory.

    Attributes:
        rows: the number of items.
        draws: whether the seeds that `take` is given make a difference.
        is_uniform: whether every minibatch consists of tensors with one row per example.
    """

    def __init__(
        self, data: Any, name: str, seed: int, collate_fn: Collate | None, fixed: bool
    ) -> None:
        """
        Args:
            data: the data set.
            name: that of the data in a ProblemError.
            seed: seeds what fixed items draw.
            collate_fn: see Problem.
            fixed: whether every read of an item that draws is the same, as for held-out data.
        Raises:
            ProblemError: this is no data set of items, it has no item, its items cannot be joined,
                or two reads of an item under the same seeds differ.
        """
        self._data = data
        self._name = name
        self._seed = seed_of(Purpose.ITEMS, seed)
        self._collate_fn = collate_fn
        self._fixed = fixed
        is_iterable = isinstance(data, DataLoader | IterableDataset | Iterator)
        if is_iterable or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise _no_data_set(data, name)
        self.rows = len(data)
        if self.rows == 0:
            raise ProblemError(f"{name} must hold at least one example, got none", name)
        rows = sorted({(self.rows - 1) * i // (SAMPLED - 1) for i in range(SAMPLED)})
        sample = self._require_repeatable(rows)
        size = sum(bytes_of(leaf) for item in sample for _, leaf in trees.leaves(item))
        fits = size * self.rows <= IN_MEMORY_BYTES * len(sample)
        self._kept = self._read_all(rows) if fits else None
        self.draws = not fixed and (collate_fn is not None or self._kept is None)
        content = self.collate(sample, self._seed)
        self.is_uniform = collate_fn is None and are_rows(content, len(sample))

    @property
    def in_memory(self) -> bool:
        """Whether the items were read once and are kept."""
        return self._kept is not None

    def read(self, index: Tensor, seeds: Sequence[int] | None = None) -> list[Any]:
        """The items of a minibatch, before they are collated; see `take`."""
        rows = index.tolist()
        if self._kept is not None:
            return [self._kept[row] for row in rows]
        return self._read(rows, seeds or [self._seed + row for row in rows])

    def take(self, index: Tensor, seeds: Sequence[int] | None = None) -> Any:
        """The content of the minibatch of the rows at `index`.

        `seeds` are those of the rows; None for those of fixed items.
        """
        rows = index.tolist()
        seed = seeds[0] if seeds else self._seed + rows[0]
        return self.collate(self.read(index, seeds), seed, rows)

    def joined(self) -> Any:
        """All items as tensors with a row each; None where minibatches must be collated anew."""
        if self._kept is None or not self.is_uniform:
            return None
        return self.collate(self._kept, self._seed)

    def collate(self, items: Sequence[Any], seed: int, rows: Sequence[int] | None = None) -> Any:
        """The content of a minibatch; `seed` seeds what the collate function draws."""
        if self._collate_fn is not None:
            with restored_generators():
                seed_all(seed_of(Purpose.COLLATE, seed))
                return self._collate_fn([own_container(item) for item in items])
        try:
            return default_collate(list(items))
        except RuntimeError as error:
            raise self._ragged(rows or range(len(items)), items) from error
        except TypeError as error:
            raise ProblemError(
                f"items of {self._name} must be joined to a minibatch, and default_collate cannot "
                f"join {described(items[0])}: {error}; convert its parts to tensors, or state "
                "the problem's collate_fn",
                self._name,
            ) from error

    def _require_repeatable(self, rows: Sequence[int]) -> list[Any]:
        """The items of these rows; raises ProblemError if two reads or collations differ."""
        seeds = [self._seed + row for row in rows]
        first, again = self._read(rows, seeds), self._read(rows, seeds)
        for row, one, other in zip(rows, first, again, strict=True):
            if not same(one, other):
                raise self._unequal(f"{self._name}[{row}]", "reads")
        one, other = (self.collate(first, self._seed, rows) for _ in range(2))
        if not same(one, other):
            raise self._unequal(f"a minibatch of {self._name} by collate_fn", "calls")
        return first

    def _unequal(self, what: str, twice: str) -> ProblemError:
        return ProblemError(
            f"{what} must be the same under the same seeds, and two {twice} differ: draw from the "
            "global generators of torch, NumPy or Python, which are seeded for every row, instead "
            "of a generator of its own, and write into no item",
            self._name,
        )

    def _read_all(self, sampled: Sequence[int]) -> list[Any] | None:
        """All items; None if some draw, and are not fixed. `sampled` are tried first."""
        rows = range(self.rows)
        for tried in (sampled, rows):
            items, drew = self._read_unseeded(tried)
            if drew:
                seeds = [self._seed + row for row in rows]
                return self._read(rows, seeds) if self._fixed else None
        return items

    def _read_unseeded(self, rows: Sequence[int]) -> tuple[list[Any], bool]:
        """The items of these rows, and whether one of them drew random numbers."""
        with restored_generators():
            before = GeneratorStates.now()
            items = [self._item(row) for row in rows]
            return items, not before.equal(GeneratorStates.now())

    def _read(self, rows: Sequence[int], seeds: Sequence[int]) -> list[Any]:
        items = []
        with restored_generators():
            for row, seed in zip(rows, seeds, strict=True):
                seed_all(seed)
                items.append(self._item(row))
        return items

    def _item(self, row: int) -> Any:
        try:
            return self._data[row]
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise ProblemError(
                f"{self._name} must be {ACCEPTED}, got {type(self._data).__name__}, and reading "
                f"item {row} raised {type(error).__name__}: {error} "
                f"({Path(last.filename).name}:{last.lineno})",
                self._name,
            ) from error

    def _ragged(self, rows: Sequence[int], items: Sequence[Any]) -> ProblemError:
        """The error for the first item whose shapes are not those of the first."""
        shapes = [str(trees.mapped(shape_of, item)) for item in items]
        row, shape = next(
            ((row, shape) for row, shape in zip(rows, shapes, strict=True) if shape != shapes[0]),
            (rows[0], shapes[0]),
        )
        return ProblemError(
            f"items of {self._name} must have the same shapes to be joined by default_collate, got "
            f"{shapes[0]} in item {rows[0]} and {shape} in item {row}: pad them in the problem's "
            "collate_fn",
            self._name,
        )


def own_container(item: Any) -> Any:
    """The item in a container of its own, for collate functions that write into the container."""
    return copy(item) if isinstance(item, list | MutableMapping) else item


def shape_of(leaf: Any) -> Any:
    return tuple(getattr(leaf, "shape", ()))


def bytes_of(leaf: Any) -> int:
    return leaf.nbytes if isinstance(leaf, Tensor | np.ndarray) else sys.getsizeof(leaf)


def same(one: Any, other: Any) -> bool:
    """Whether two structures have equal tensors, arrays and plain values.

    Objects of other types are not compared.
    """
    left, right = dict(trees.leaves(one)), dict(trees.leaves(other))
    return left.keys() == right.keys() and all(_same_leaf(left[way], right[way]) for way in left)


def _same_leaf(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(as_bytes(one), as_bytes(other))
    if isinstance(one, np.ndarray):
        return one.tobytes() == np.asarray(other).tobytes()
    if isinstance(one, int | float | str | bytes | np.generic):
        return bool(one == other) or one != one
    return type(one) is type(other)


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, shape (bytes,): equal bytes are equal values, nan included."""
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)
