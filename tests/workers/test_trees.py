"""Nested structures of tensors and plain values."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from drmad_workers import trees

Named = namedtuple("Named", ["one", "other"])


class Encoding(UserDict[Any, Any]):
    """A mapping with an attribute of its own, as BatchEncoding has."""

    def __init__(self, data: dict[Any, Any], origin: str) -> None:
        super().__init__(data)
        self.origin = origin


@dataclass(frozen=True, slots=True)
class Frozen:
    tensor: Tensor
    name: str
    computed: int = field(init=False, default=3)


ONE, OTHER = torch.arange(3), torch.ones(3, 2)
STRUCTURES = [
    ONE,
    (ONE, OTHER),
    [ONE, {"x": OTHER, "y": None}],
    Named(ONE, [OTHER]),
    OrderedDict(a=ONE, b="text"),
    Encoding({"x": ONE, 3: OTHER}, "a tokenizer"),
    Frozen(OTHER, "name"),
    pack_sequence([torch.ones(3), torch.ones(2)]),
    {"deep": [(Frozen(ONE, "a"), {"b": Encoding({"c": OTHER}, "d")})]},
]


@pytest.mark.parametrize("tree", STRUCTURES, ids=lambda tree: type(tree).__name__)
def test_a_structure_is_rebuilt_with_other_tensors(tree: Any) -> None:
    doubled = trees.mapped_tensors(lambda tensor: 2 * tensor, tree)
    assert type(doubled) is type(tree)
    for one, two in zip(trees.tensors_of(tree), trees.tensors_of(doubled), strict=True):
        assert torch.equal(2 * one, two)
    assert trees.signature(doubled) == trees.signature(tree)
    again = trees.with_tensors(doubled, trees.tensors_of(tree))
    assert all(map(torch.equal, trees.tensors_of(again), trees.tensors_of(tree)))


def test_plain_values_and_attributes_stay() -> None:
    encoding = trees.copied(Encoding({"x": ONE, "name": "a"}, "a tokenizer"))
    assert (encoding["name"], encoding.origin) == ("a", "a tokenizer")
    assert trees.copied(Frozen(ONE, "a")).computed == 3


def test_a_copy_has_containers_of_its_own() -> None:
    given = {"x": [ONE]}
    copied = trees.copied(given)
    copied["x"].append(OTHER)
    del copied["x"]
    assert given["x"] == [ONE]


def test_leaves_have_the_way_to_them() -> None:
    tree = {"a": [ONE, Named(None, Frozen(OTHER, "b"))]}
    ways = [way for way, _ in trees.leaves(tree, "batch")]
    assert ways == [
        "batch['a'][0]",
        "batch['a'][1].one",
        "batch['a'][1].other.tensor",
        "batch['a'][1].other.name",
        "batch['a'][1].other.computed",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"x": ONE}, {"y": ONE}),
        ({"x": ONE}, {"x": ONE.float()}),
        ({"x": ONE}, {"x": ONE[:2]}),
        ((ONE, 1), (ONE, 2)),
        ((ONE, 1), (ONE, True)),
        ((ONE, 1), [ONE, 1]),
        (np.ones(2), np.ones(2)),
    ],
)
def test_signatures_tell_what_a_trace_would_take_for_a_constant(one: Any, other: Any) -> None:
    assert trees.signature(one) != trees.signature(other)
    assert len({trees.signature(one), trees.signature(other)}) == 2
