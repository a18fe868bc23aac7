"""The nodes of the graph that autograd keeps of a value."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def graph_nodes(*values: Tensor) -> Iterator[Any]:
    """Every node of the graphs of these values once, those of the values themselves first."""
    pending = [value.grad_fn for value in values if value.grad_fn is not None]
    seen = set(pending)
    while pending:
        node = pending.pop()
        yield node
        following = _parents(node) - seen
        seen |= following
        pending.extend(following)


def _parents(node: Any) -> set[Any]:
    links: Iterable[tuple[Any, int]] = node.next_functions
    return {parent for parent, _ in links if parent is not None}
