"""Nested structures of tensors and plain values: mappings, tuples, lists, dataclasses.

torch.utils._pytree takes a mapping or a dataclass for a leaf unless its class is registered, and a
registration would hold in the user's program too.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def children(node: Any) -> dict[str, Any] | None:
    """The children by the way to each, such as "['mask']", "[0]" or ".labels"; None for a leaf."""
    if isinstance(node, Tensor):
        return None
    if isinstance(node, Mapping):
        return {f"[{key!r}]": child for key, child in node.items()}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return {f".{name}": child for name, child in zip(node._fields, node, strict=True)}
    if isinstance(node, tuple | list):
        return {f"[{number}]": child for number, child in enumerate(node)}
    if is_dataclass(node) and not isinstance(node, type):
        return {f".{field.name}": getattr(node, field.name) for field in fields(node)}
    return None


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The structure with `function` of each leaf in the leaf's place."""
    found = children(tree)
    if found is None:
        return function(tree)
    return _rebuilt(tree, [mapped(function, child) for child in found.values()])


def copied(tree: Any) -> Any:
    """The same leaves in containers of their own, for code that writes into the containers."""
    return mapped(lambda leaf: leaf, tree)


def mapped_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """The structure with `function` of each tensor; plain values stay."""
    return mapped(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def with_tensors(tree: Any, tensors: Sequence[Tensor]) -> Any:
    """The structure with other tensors in the place of its own, in the order of `tensors_of`."""
    given = iter(tensors)
    return mapped_tensors(lambda _: next(given), tree)


def leaves(tree: Any, way: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves with the way to each."""
    found = children(tree)
    if found is None:
        yield way, tree
    else:
        for key, child in found.items():
            yield from leaves(child, way + key)


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for _, leaf in leaves(tree) if isinstance(leaf, Tensor)]


def signature(tree: Any) -> Hashable:
    """What two structures that differ in the values of their tensors alone have in common.

    A plain value that cannot be hashed, such as an array, is unequal to every other.
    """
    found = children(tree)
    if found is not None:
        return type(tree), *((key, signature(child)) for key, child in found.items())
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    return type(tree), tree if isinstance(tree, Hashable) else object()


def _rebuilt(node: Any, values: Sequence[Any]) -> Any:
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*values)
    if isinstance(node, tuple | list):
        return type(node)(values)
    made = copy(node)
    if isinstance(node, Mapping):
        for key, value in zip(node, values, strict=True):
            made[key] = value
    else:
        for field, value in zip(fields(node), values, strict=True):
            object.__setattr__(made, field.name, value)  # a frozen one too
    return made
