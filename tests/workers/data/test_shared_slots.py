"""Minibatches in memory that processes share, and memory maps that they open anew."""

from collections import namedtuple
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import drmad_workers.data.reading_process  # noqa: F401  sends memory maps
from drmad_workers.data.shared_slots import Packed, Place, SharedSlots, is_dense
from drmad_workers.trees import leaves

Pair = namedtuple("Pair", "x y")


@dataclass(frozen=True)
class Record:
    mask: Tensor
    name: str


CONTENT = {
    "pair": Pair(torch.arange(6.0).view(2, 3), torch.tensor([True, False])),
    "record": [Record(torch.ones(3, dtype=torch.bfloat16), "a"), None, 3],
    "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "empty": torch.zeros(0, 3),
    "number": torch.tensor(2.5, dtype=torch.float64),
    "complex": torch.ones(2, dtype=torch.complex64),
    "expanded": torch.ones(1, 3).expand(4, 3),
    "sparse": torch.eye(3).to_sparse(),
    "array": np.arange(3),
}


def same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return type(one) is type(other) and bool(np.all(one == other))
    if one.layout != torch.strided:
        return torch.equal(one.to_dense(), other.to_dense())
    return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)


def test_any_structure_comes_back_with_its_bits_and_its_memory_format() -> None:
    slots = SharedSlots()
    read = slots.unpack(slots.pack(3, CONTENT))
    found, given = dict(leaves(read)), dict(leaves(CONTENT))
    assert list(found) == list(given)
    assert [way for way in given if not same(given[way], found[way])] == []


def test_dense_tensors_alone_lie_in_a_slot() -> None:
    packed = SharedSlots().pack(0, CONTENT)
    by_themselves = [
        way for way, leaf in leaves(packed.content) if not isinstance(leaf, Place | str | int)
    ]
    assert by_themselves == ["['record'][1]", "['expanded']", "['sparse']", "['array']"]
    assert is_dense(torch.ones(3, 4).t())
    assert not is_dense(torch.ones(3, 4)[:, :2])


def test_slot_grows_with_what_is_written_and_leaves_others_alone() -> None:
    slots = SharedSlots()
    first = slots.pack(0, torch.ones(10))
    assert torch.equal(slots.unpack(slots.pack(1, torch.arange(10_000.0))), torch.arange(10_000.0))
    larger = slots.pack(1, torch.arange(3_000_000.0))
    assert float(slots.unpack(larger)[-1]) == 2_999_999.0
    assert torch.equal(slots.unpack(first), torch.ones(10))


def test_what_was_unpacked_does_not_change_when_the_slot_is_written_again() -> None:
    slots = SharedSlots()
    read = slots.unpack(slots.pack(0, torch.ones(4)))
    slots.pack(0, torch.zeros(4))
    assert read.tolist() == [1.0] * 4
    assert isinstance(slots.pack(0, None), Packed)


def sent(value: Any) -> tuple[int, Any]:
    """The bytes that a value takes on its way to another process, and what arrives."""
    content = ForkingPickler.dumps(value)
    return len(content), ForkingPickler.loads(content)


@pytest.mark.parametrize(
    "part",
    [
        np.s_[:],
        np.s_[5000:],
        np.s_[17:90:3, 1],
        np.s_[::-2, ::-1],
    ],
    ids=str,
)
def test_memory_map_is_sent_as_the_place_of_its_file(tmp_path: Path, part: Any) -> None:
    path = tmp_path / "rows.bin"
    np.arange(40_000, dtype=np.int32).tofile(path)
    for offset in (0, 16, 8192):
        rows = (160_000 - offset) // 16
        mapped = np.memmap(path, np.int32, "r", offset, (rows, 4))[part]
        size, arrived = sent(mapped)
        assert size < 1000
        assert isinstance(arrived, np.memmap)
        assert np.array_equal(arrived, mapped)


def test_memory_map_that_keeps_its_changes_to_itself_is_sent_as_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "rows.bin"
    np.arange(100, dtype=np.int32).tofile(path)
    changed = np.memmap(path, np.int32, "c")
    changed[3] = -1
    assert np.array_equal(sent(changed)[1], changed)
    assert np.array_equal(sent(np.memmap(path, np.int32, "r") + 1)[1], np.arange(1, 101))
