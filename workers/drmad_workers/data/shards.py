"""The share of the training and of the validation data that a replica holds."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from drmad_workers.errors import ProblemError
from drmad_workers.random_streams import Purpose, generator_of

Layout = Literal["shared", "overlapping", "disjoint"]
Part = Literal["train", "valid"]


@dataclass(frozen=True)
class Shards:
    """Distributes the examples among the replicas of a job.

    The examples lie on a circle, in an order drawn under the seed. Replica r holds the examples
    from position r/K of the circle on: up to the start of the next replica ("disjoint"), or
    further ("overlapping").

    Attributes:
        data: the layout; "shared" gives every replica all examples.
        count: the number of replicas K.
        train, valid: the share of the examples that a replica holds, in (0, 1]; None stands for
            1/K. A share of 1 gives every replica all examples, in every layout.
        judging: the share of the validation examples that no hypergradient sees, in [0, 0.5].
        seed: the seed of the order.
    """

    data: Layout = "shared"
    count: int = 1
    train: float | None = None
    valid: float | None = None
    judging: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data not in get_args(Layout):
            layouts = ", ".join(get_args(Layout))
            raise ProblemError(f"data must be one of {layouts}, got {self.data!r}", "replicas.data")

    def positions(self, part: Part, rows: int, replica: int) -> Tensor | None:
        """The sorted positions of the examples that a replica holds, int64; None for all of them.

        Raises:
            ProblemError: the replica would hold none of the `rows` examples.
        """
        share = self.train if part == "train" else self.valid
        if self.data == "shared" or self.count == 1 or share == 1.0:
            return None
        start, next_start = (number * rows // self.count for number in (replica, replica + 1))
        # A share of 0.1 of 30 rows is three rows, also where the product rounds down.
        length = next_start - start if share is None else int(share * rows + 1e-9)
        if length == 0:
            raise ProblemError(
                f"each of {self.count} replicas must hold at least one of the {rows} {part} "
                f"examples, got none: use fewer replicas or a larger {part}_share",
                f"replicas.{part}_share",
            )
        order = self._order(part, rows)
        return torch.from_numpy(np.sort(order[np.arange(start, start + length) % rows]))

    def validation(self, rows: int, replica: int) -> tuple[Tensor | None, Tensor | None]:
        """The sorted positions of a replica's validation examples: differentiated, and judging.

        The judging examples lie evenly on the circle, so that every replica has its share of them,
        and are the same for all replicas that hold them: no hypergradient sees one.

        Returns:
            As `positions`; the second part is None where no share of the examples judges.
        Raises:
            ProblemError: the replica would hold no example of one of the two parts.
        """
        held = self.positions("valid", rows, replica)
        if self.judging == 0.0:
            return held, None
        steps = np.floor(np.arange(rows + 1) * self.judging + 1e-9)
        judges = np.zeros(rows, dtype=bool)
        judges[self._order("valid", rows)[np.diff(steps) > 0]] = True
        own = torch.arange(rows) if held is None else held
        judging = torch.from_numpy(judges)[own]
        if bool(judging.all()) or not bool(judging.any()):
            raise ProblemError(
                f"a share of {self.judging:g} of the {len(own)} validation examples of a replica "
                f"must be at least one of them and not all, got {int(judging.sum())}: set 0, so "
                "that none is kept out of the hypergradient, or give more validation examples",
                "meta.judging_share",
            )
        return own[~judging], own[judging]

    def _order(self, part: Part, rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        purpose = Purpose.TRAIN_SHARDS if part == "train" else Purpose.VALID_SHARDS
        return generator_of(purpose, self.seed).permutation(rows)
