"""Which examples a replica holds: its share of the training and of the validation data."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from drmad_workers.data.minibatches import seed_of
from drmad_workers.errors import ProblemError

Layout = Literal["shared", "overlapping", "disjoint"]
Part = Literal["train", "valid"]

TRAIN_SHARDS, VALID_SHARDS = 5, 6
"""Purposes of the random streams that lay the examples out, see batches.seed_of."""


@dataclass(frozen=True)
class Shards:
    """How the examples are shared out among the replicas of a job.

    The examples lie on a circle in an order drawn under the seed. Replica r holds those from
    place r/K of it on: up to where the next one begins ("disjoint"), or further ("overlapping").

    Attributes:
        data: the layout; "shared" gives every replica all examples.
        count: K.
        train, valid: share of the examples that a replica holds, in (0, 1]; None is 1/K. A share
            of one is all of them, in every layout.
        seed: of the order.
    """

    data: Layout = "shared"
    count: int = 1
    train: float | None = None
    valid: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data not in get_args(Layout):
            layouts = ", ".join(get_args(Layout))
            raise ProblemError(f"data must be one of {layouts}, got {self.data!r}", "replicas.data")

    def positions(self, part: Part, rows: int, replica: int) -> Tensor | None:
        """Sorted positions in the data set of what a replica holds, int64; None where it is all.

        Raises:
            ProblemError: that is not a single one of the `rows` examples.
        """
        share = self.train if part == "train" else self.valid
        if self.data == "shared" or self.count == 1 or share == 1.0:
            return None
        start, next_start = (number * rows // self.count for number in (replica, replica + 1))
        # A share of 0.1 of 30 rows is three of them, however the product is rounded.
        length = next_start - start if share is None else int(share * rows + 1e-9)
        if length == 0:
            raise ProblemError(
                f"each of {self.count} replicas must hold at least one of the {rows} examples of "
                f"{part}: ask for fewer replicas, or for a larger {part}_share",
                f"replicas.{part}_share",
            )
        purpose = TRAIN_SHARDS if part == "train" else VALID_SHARDS
        draw = np.random.Generator(np.random.PCG64(seed_of(purpose, self.seed)))
        order = draw.permutation(rows)
        return torch.from_numpy(np.sort(order[np.arange(start, start + length) % rows]))
