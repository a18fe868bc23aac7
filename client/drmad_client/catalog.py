"""What the service offers without user code, as data: listed and checked without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """A built-in data set."""

    examples: int
    input_shape: tuple[int, ...]
    classes: int


DATA_SETS = {
    "digits": DataSet(examples=1797, input_shape=(64,), classes=10),
    "mnist": DataSet(examples=70_000, input_shape=(784,), classes=10),
}
