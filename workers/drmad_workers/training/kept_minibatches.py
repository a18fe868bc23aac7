"""The minibatches of a window, which its backward pass reads again."""

from typing import Any, NamedTuple

from torch import Tensor

from drmad_workers import trees
from drmad_workers.problem import Batch

KEPT_BYTES = 2**26
"""The most bytes of minibatches that a window keeps (64 MiB)."""


class Kept(NamedTuple):
    """A minibatch with its tensors, and how often each of them had been written to."""

    batch: Batch
    tensors: list[Tensor]
    versions: list[int]

    @property
    def is_unchanged(self) -> bool:
        """Whether no model or loss has written into the minibatch."""
        versions = zip(self.tensors, self.versions, strict=True)
        return all(tensor._version == version for tensor, version in versions)


class KeptMinibatches:
    """Minibatches by their number in the training, as long as they fit KEPT_BYTES together."""

    def __init__(self) -> None:
        self._by_number: dict[int, Kept] = {}
        self._bytes = 0

    def find(self, number: int) -> Batch | None:
        kept = self._by_number.get(number)
        return kept.batch if kept is not None and kept.is_unchanged else None

    def keep(self, number: int, batch: Batch) -> None:
        """Keeps the minibatch, if writes into it would be seen."""
        found = [leaf for _, leaf in trees.leaves(batch.content)]
        if not all(map(is_watched, found)):
            return
        tensors = [*(leaf for leaf in found if isinstance(leaf, Tensor)), batch.index]
        size = sum(tensor.nbytes for tensor in tensors)
        if self._bytes + size <= KEPT_BYTES and number not in self._by_number:
            self._bytes += size
            self._by_number[number] = Kept(batch, tensors, [each._version for each in tensors])

    def __contains__(self, number: int) -> bool:
        return number in self._by_number


def is_watched(leaf: Any) -> bool:
    """Whether a change of the value would be seen, or there can be none."""
    if isinstance(leaf, Tensor):
        return not leaf.is_inference()
    return leaf is None or isinstance(leaf, bool | int | float | str)
