"""The number of rows of held-out data that one pass of the model takes."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.errors import ran_out_of_memory
from drmad_workers.global_generators import seed_all
from drmad_workers.objective.autograd.graph_memory import address, forbids_hooks, saved_tensors
from drmad_workers.problem import Batch
from drmad_workers.random_streams import Purpose, seed_of

T = TypeVar("T")

MAX_ROWS = 4096
"""Bounds the chosen number of rows of a pass."""
PASS_BYTES = 2**26
"""Bounds the graph of a pass of the chosen number of rows, where a minibatch does not exceed it."""


class HeldOutRows:
    """Takes examples in passes of `rows` rows, under seeds of their own.

    Without a stated number the rows follow the memory of the graph of a row (`fit`), but are at
    least a minibatch, and halve when an allocation fails.

    Attributes:
        rows: the rows of a pass.
    """

    def __init__(self, stated: int | None = None, batch_size: int = 1, seed: int = 0) -> None:
        self.rows = stated or max(batch_size, MAX_ROWS)
        self._stated = stated is not None
        self._batch_size = batch_size
        self._seed = seed

    def fit(self, rows: int, loss: Callable[[], Tensor], weights: Tensor) -> None:
        """Chooses the rows of a pass by the memory of the graph of a loss of `rows` rows.

        Takes a minibatch where torch.func's transforms allow no measurement.
        """
        if self._stated:
            return
        try:
            with saved_tensors() as kept:
                loss()
        except RuntimeError as error:
            if not forbids_hooks(error):
                raise
            self.rows = self._batch_size
            return
        kept.pop(address(weights), None)
        fitting = PASS_BYTES * rows // max(1, sum(kept.values()))
        self.rows = max(self._batch_size, min(MAX_ROWS, fitting))

    def over(self, examples: Examples, use: Callable[[Batch], T]) -> Iterator[tuple[T, float]]:
        """The results of `use` on all examples in order, each with its share of the rows.

        `use` may be called again on fewer rows after a lack of memory, and must have no effect.
        """
        examples.expect_chunks(self.rows)
        start = 0
        while start < examples.rows:
            result, rows = self.attempt(partial(self._pass, examples, start, use))
            yield result, rows / examples.rows
            start += rows
        examples.expect_chunks(self.rows)  # the next time they are read while training goes on

    def attempt(self, work: Callable[[int], T]) -> T:
        """`work(rows)`, with half as many rows after every lack of memory."""
        while True:
            try:
                return work(self.rows)
            except Exception as error:
                if self._stated or self.rows == 1 or not ran_out_of_memory(error):
                    raise
            # Behind the handler, whose traceback holds the tensors of the failed pass.
            self.rows //= 2
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()

    def _pass(
        self, examples: Examples, start: int, use: Callable[[Batch], T], rows: int
    ) -> tuple[T, int]:
        batch = examples.chunk_ahead(start, rows)
        seed_all(seed_of(Purpose.HELD_OUT, self._seed, start))
        return use(batch), len(batch.index)
