"""Minibatches that can be drawn again.

Minibatch t of replica r in meta-iteration n is a function of (seed, n, r, t) alone, so that the
backward pass regenerates what the forward pass saw, and a job that resumes sees the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from drmad_workers import trees
from drmad_workers.data.examples import Examples
from drmad_workers.data.pass_order import Order, content_of, expect
from drmad_workers.distributed.workers import ALONE, Workers, own_rows
from drmad_workers.errors import ProblemError
from drmad_workers.problem import Batch
from drmad_workers.random_streams import Purpose, generator_of, seed_of


class Minibatches:
    """The minibatches of one training run: shuffled epochs without replacement, random access.

    An epoch leaves out the rows that do not fill a minibatch. Every minibatch therefore has
    `batch_size` rows, and the mean over joined minibatches is the mean of their means.

    Attributes:
        batch_size: the rows of a minibatch.
        per_epoch: the minibatches of an epoch.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        stream: tuple[int, int, int],
        workers: Workers = ALONE,
    ) -> None:
        """`stream` is (seed, meta-iteration, replica); `join` takes the rows of this worker."""
        if not 1 <= batch_size <= examples.rows:
            held = "" if examples.positions is None else " of this replica"
            raise ProblemError(
                f"batch_size must be between 1 and the number of training examples "
                f"({examples.rows}{held}), got {batch_size}",
                "training.batch_size",
            )
        self.batch_size = batch_size
        self.stream = stream
        self._examples = examples
        self._workers = workers
        self.per_epoch = examples.rows // batch_size
        self._orders: dict[int, tuple[Tensor, Tensor]] = {}

    def expect(self, order: Order) -> None:
        """States what `join` will be asked for, for data that other processes read."""
        expect(order, self._examples, [self])

    def join(self, step: int, count: int = 1, every: int = 1) -> Batch:
        """The minibatches of the steps `step` .. `step + count - 1`, joined into one batch.

        Uses the first of every `every` minibatches; of each the rows that this worker computes.
        """
        index = torch.cat(
            [own_rows(self._rows(step + i)[1], self._workers) for i in range(0, count, every)]
        )
        content = content_of(range(step, step + count, every), self._examples, [self])
        if content is not None:
            return self._examples.placed(content, index)
        seeds = self.seeds(step, count, every) if self._examples.draws else None
        return self._examples.take(index, seeds)

    def index(self, step: int, count: int = 1, every: int = 1) -> Tensor:
        """The positions of the examples of `join`, shape (⌈count / every⌉ × batch size,).

        Those of all workers.
        """
        if count <= every:
            return self._rows(step)[1]
        return torch.cat([self._rows(step + i)[1] for i in range(0, count, every)])

    def rows(self, step: int) -> list[int]:
        """The positions of this worker's examples of one minibatch, which no GPU computes."""
        found: list[int] = own_rows(self._rows(step)[0], self._workers).tolist()
        return found

    def seeds(self, step: int, count: int = 1, every: int = 1) -> list[int]:
        """The seed of what each row of `join` draws: a function of (stream, step, row)."""
        steps = range(step, step + count, every)
        firsts = [seed_of(Purpose.ITEMS, *self.stream, each) for each in steps]
        return [
            first + row
            for first, each in zip(firsts, steps, strict=True)
            for row in self.rows(each)
        ]

    def step_seed(self, step: int) -> int:
        """The seed of the random numbers that model and loss draw in a step (dropout)."""
        return seed_of(Purpose.NOISE, *self.stream, step)

    def _rows(self, step: int) -> tuple[Tensor, Tensor]:
        """The positions of a minibatch, on the CPU and on the device."""
        epoch, position = divmod(step, self.per_epoch)
        found = self._orders.get(epoch)
        if found is None:
            # A pass in either direction reads few epochs at a time, so that four suffice.
            if len(self._orders) >= 4:
                self._orders.pop(next(iter(self._orders)))
            draw = generator_of(Purpose.MINIBATCHES, *self.stream, epoch)
            order = torch.from_numpy(draw.permutation(self._examples.rows))
            if self._examples.positions is not None:
                order = self._examples.positions.cpu()[order]
            found = self._orders[epoch] = (order, order.to(self._examples.device))
        start = position * self.batch_size
        host, device = (order[start : start + self.batch_size] for order in found)
        return host, device


class StackedMinibatches:
    """The minibatches of R replicas side by side: tensors of shape (R, rows, ...)."""

    def __init__(self, singles: Sequence[Minibatches], examples: Examples) -> None:
        """`examples` reads the positions of every replica, and is uniform."""
        self._singles = singles
        self._examples = examples
        self.batch_size = singles[0].batch_size
        self.per_epoch = singles[0].per_epoch

    def expect(self, order: Order) -> None:
        """See Minibatches."""
        expect(order, self._examples, self._singles)

    def index(self, step: int, count: int = 1, every: int = 1) -> Tensor:
        return torch.stack([single.index(step, count, every) for single in self._singles])

    def join(self, step: int, count: int = 1, every: int = 1) -> Batch:
        index = self.index(step, count, every)
        numbers = range(step, step + count, every)
        content = content_of(numbers, self._examples, self._singles)
        if content is not None:
            batch = self._examples.placed(content, index)
        else:
            seeds = None
            if self._examples.draws:
                each = [single.seeds(step, count, every) for single in self._singles]
                seeds = [seed for seeds in each for seed in seeds]
            batch = self._examples.take(index.reshape(-1), seeds)
        content = trees.mapped_tensors(
            lambda part: part.view(index.shape + part.shape[1:]), batch.content
        )
        return Batch(content, index)

    def step_seed(self, step: int) -> int:
        """The seed of the first replica: models that draw random numbers are not stacked."""
        return self._singles[0].step_seed(step)
