"""A data set, split into training, validation and test examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from drmad_workers.catalog.sources import Image, Pair
from drmad_workers.catalog.tasks import Task
from drmad_workers.problem import Column

if TYPE_CHECKING:
    from drmad_workers.catalog.table_columns import Encoder
    from drmad_workers.catalog.table_targets import Targets


@dataclass(frozen=True)
class Split:
    """A data set, split into training, validation and test examples.

    Attributes:
        train, valid, test: (inputs, targets); test is None if no test examples were requested.
        task: what is predicted.
        input_shape: the shape of one example.
        wrong: the mask of the training examples whose label was replaced by a wrong one; None
            without label noise.
        image: (channels, rows, columns) of one example, if it is an image.
        categories: the categories of each categorical column of inputs, which are the last ones.
        columns: see Problem.columns.
        encoder, targets: of a table, what encodes its inputs, and its targets.
    """

    train: Pair
    valid: Pair
    test: Pair | None
    task: Task
    input_shape: tuple[int, ...]
    wrong: Tensor | None = None
    image: Image | None = None
    categories: tuple[int, ...] = ()
    columns: Mapping[str, Column] = field(default_factory=dict)
    encoder: Encoder | None = None
    targets: Targets | None = None
