"""The workers that share one training run, as the engine sees them."""

from typing import Protocol

from torch import Tensor


class Workers(Protocol):
    """The workers of one training run, of which each computes a part of the rows of a batch.

    Every worker holds the same weights and takes the same steps. What it computes on its own rows
    is a part of a sum; `sum` makes the whole of it, the same bits on every worker. All workers call
    the methods in the same order, so that nothing but what the methods returned, or what every
    worker knows, may decide about a call.

    Attributes:
        rank: the number of this worker.
        size: the number of workers; 1 if nothing is shared.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, *parts: Tensor) -> None:
        """Replaces each tensor by its sum over the workers.

        Raises:
            WorkerLost: another worker has ended.
            Stopped: the first worker was asked to stop.
        """
        ...

    def largest(self, number: float) -> float:
        """The largest of the workers' numbers; raises as `sum` does."""
        ...

    def require_same(self, tensor: Tensor) -> None:
        """Raises WorkersDiffer unless every worker has the same tensor; raises as `sum` does."""
        ...


class Alone:
    """The only worker of a training run."""

    rank = 0
    size = 1

    def sum(self, *parts: Tensor) -> None:
        pass

    def largest(self, number: float) -> float:
        return number

    def require_same(self, tensor: Tensor) -> None:
        pass


ALONE = Alone()


def own_rows(rows: Tensor, workers: Workers) -> Tensor:
    """The rows of a minibatch that this worker computes, of those of shape (rows,)."""
    return rows[workers.rank :: workers.size]


def share_of(rows: int, workers: Workers) -> float:
    """The share of `rows` rows that this worker computes."""
    return len(range(workers.rank, rows, workers.size)) / rows
