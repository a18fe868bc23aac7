"""The order in which a pass reads minibatches, for data that other processes read ahead."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from drmad_workers import trees
from drmad_workers.data.examples import Examples
from drmad_workers.data.read_ahead import Wanted


@dataclass(frozen=True)
class Order:
    """The minibatches that a pass reads, by number, in the order of their first use.

    Attributes:
        numbers: the minibatches; those that are joined to one batch may come in any order.
        window: a minibatch is used again, or before others, among so many in a row.
        joins: whether the pass joins minibatches. Items that a collate function joins to tensors of
            other shapes are then collated here, because the joined ones are collated together.
    """

    numbers: Iterable[int] = ()
    window: int = 1
    joins: bool = False


class Stream(Protocol):
    """The minibatches of one replica; see Minibatches."""

    @property
    def stream(self) -> tuple[int, int, int]: ...

    def rows(self, step: int) -> list[int]: ...

    def seeds(self, step: int) -> list[int]: ...


def expect(order: Order, examples: Examples, streams: Sequence[Stream]) -> None:
    """Has the minibatches of an order read ahead, side by side for several replicas."""
    if examples.ahead is not None:
        collated = examples.is_uniform or not order.joins
        requests = (wanted(number, examples, streams, collated) for number in order.numbers)
        examples.ahead.expect(requests, order.window, collated)


def content_of(numbers: range, examples: Examples, streams: Sequence[Stream]) -> Any | None:
    """The content of joined minibatches, where other processes read.

    Has the rows of a replica one after the other. Returns None where the pass did not state that it
    joins minibatches, and a collate function makes the joined ones.
    """
    if examples.ahead is None:
        return None
    collated = examples.ahead.collated
    if collated and len(numbers) > 1 and not examples.is_uniform:
        return None
    requests = [wanted(number, examples, streams, collated) for number in numbers]
    found = examples.ahead.take([request.key for request in requests])
    parts = [
        examples.read(request.rows, request.seeds, collated) if part is None else part
        for request, part in zip(requests, found, strict=True)
    ]
    if not collated:
        items, rows = list(chain(*parts)), list(chain(*(request.rows for request in requests)))
        return examples.collate(items, (requests[0].seeds or [0])[0], rows)
    if len(parts) == 1:
        return parts[0]
    columns = zip(*map(trees.tensors_of, parts), strict=True)
    return trees.with_tensors(parts[0], [joined(column, len(streams)) for column in columns])


def joined(parts: Sequence[Tensor], replicas: int) -> Tensor:
    """Tensors of the rows of R replicas, shape (R × rows, ...) each, as one such tensor."""
    if replicas == 1:
        return torch.cat(list(parts))
    apart = [part.view(replicas, -1, *part.shape[1:]) for part in parts]
    return torch.cat(apart, dim=1).flatten(0, 1)


def wanted(number: int, examples: Examples, streams: Sequence[Stream], collated: bool) -> Wanted:
    rows = [row for stream in streams for row in stream.rows(number)]
    seeds = None
    if examples.draws:
        seeds = [seed for stream in streams for seed in stream.seeds(number)]
    key = number, *(stream.stream for stream in streams)
    return Wanted(key, rows, seeds, collated)
