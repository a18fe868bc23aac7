"""A map-style data set, each item of which is read under a seed of its row."""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from drmad_workers.errors import ProblemError
from drmad_workers.global_generators import restored_generators, seed_all
from drmad_workers.random_streams import Purpose, seed_of

ACCEPTED = (
    "a pair (inputs, targets) of tensors, or a map-style data set whose items are pairs "
    "(input, target) of tensors, arrays or numbers"
)
"""What the data of a problem may be."""


class Items:
    """The items of a map-style data set, joined to tensors.

    An item that draws random numbers is read with the global generators under a seed of its row, so
    that every read of it returns the same values, in every process.

    Attributes:
        rows: the number of items.
        bytes: the size of all items, from that of the first.
    """

    def __init__(self, data: Any, name: str, seed: int) -> None:
        """`name` is that of the data in a ProblemError.

        Raises:
            ProblemError: this is no data set of (input, target), it has no item, or its first item
                differs between two reads.
        """
        self._data = data
        self._name = name
        self._seed = seed_of(Purpose.ITEMS, seed)
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise ProblemError(f"{name} must be {ACCEPTED}, got {type(data).__name__}", name)
        self.rows = len(data)
        if self.rows == 0:
            raise ProblemError(f"{name} must hold at least one example, got none", name)
        first, again = self.read([0]), self.read([0])
        if not all(map(torch.equal, map(as_bytes, first), map(as_bytes, again))):
            raise ProblemError(
                f"{name}[0] must be the same whenever it is read, and two reads differ: draw from "
                "the global generators of torch, NumPy or Python, which are seeded for every row, "
                "instead of a generator of its own",
                name,
            )
        self.bytes = self.rows * sum(part.nbytes for part in first)

    def read(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of these rows; raises ProblemError that names a row."""
        with restored_generators():
            items = [self._item(row) for row in rows]
        try:
            inputs, targets = default_collate(items)
        except RuntimeError as error:
            raise self._ragged(rows, items) from error
        except TypeError as error:
            kinds = " and ".join(described(part) for part in items[0])
            raise self._refused(rows[0], f"has {kinds}", "convert both to tensors") from error
        return inputs, targets

    def _item(self, row: int) -> tuple[Any, Any]:
        seed_all(self._seed + row)
        try:
            item = self._data[row]
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise ProblemError(
                f"{self._name} must be {ACCEPTED}, got {type(self._data).__name__}, and reading "
                f"item {row} raised {type(error).__name__}: {error} "
                f"({Path(last.filename).name}:{last.lineno})",
                self._name,
            ) from error
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise self._refused(row, f"is {described(item)}", "return (input, target)")
        for what, part in zip(("input", "target"), item, strict=True):
            if isinstance(part, dict | tuple | list | str):
                remedy = (
                    "number the words"
                    if isinstance(part, str)
                    else "join its parts to one tensor, and split that in the model's forward"
                )
                raise self._refused(row, f"has {described(part)} as its {what}", remedy)
        return item[0], item[1]

    def _refused(self, row: int, fact: str, remedy: str) -> ProblemError:
        return ProblemError(
            f"{self._name} must be {ACCEPTED}, and item {row} {fact}: {remedy}", self._name
        )

    def _ragged(self, rows: Sequence[int], items: Sequence[tuple[Any, Any]]) -> ProblemError:
        """The error for the first item whose shapes are not those of the first."""
        shapes = [tuple(tuple(getattr(part, "shape", ())) for part in item) for item in items]
        row, shape = next(
            ((row, shape) for row, shape in zip(rows, shapes, strict=True) if shape != shapes[0]),
            (rows[0], shapes[0]),
        )
        return ProblemError(
            f"all items of {self._name} must have the same shapes, got input and target of "
            f"{shapes[0][0]} and {shapes[0][1]} in item {rows[0]}, and {shape[0]} and {shape[1]} "
            f"in item {row}: pad them to one length, and append the length to the input if the "
            "model needs it",
            self._name,
        )


def described(value: Any) -> str:
    """The type of a value with its size or keys, for a message."""
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, shape (bytes,): equal bytes are equal values, nan included."""
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)
