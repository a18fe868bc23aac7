"""Map-style data sets: draws of an item, items that differ, and what an item may be."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from drmad_workers import ProblemError
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches

CPU = torch.device("cpu")


class Augmented(Dataset[object]):
    """Items that draw from every global generator."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        drawn = [torch.rand(()).item(), float(np.random.rand()), random.random()]
        return torch.tensor([float(row), *drawn], dtype=torch.float64), row % 2


def read(data: object, seed: int = 0) -> Examples:
    return Examples(data, "train", CPU, torch.float64, seed)


def inputs_of(examples: Examples) -> Tensor:
    inputs: Tensor = examples.chunk(0, examples.rows).inputs
    return inputs


def test_an_item_that_draws_is_the_same_in_every_read(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = inputs_of(read(Augmented(), seed=4))
    random.seed(8)
    np.random.seed(8)
    torch.manual_seed(8)
    assert torch.equal(inputs_of(read(Augmented(), seed=4)), in_memory)
    assert not torch.equal(inputs_of(read(Augmented(), seed=5)), in_memory)
    assert len(set(in_memory[:, 1:].flatten().tolist())) == 27  # rows and generators differ
    monkeypatch.setattr("drmad_workers.data.items.IN_MEMORY_BYTES", 10)
    batch = Minibatches(read(Augmented(), seed=4), 4, (0, 0, 0)).join(1)
    assert torch.equal(batch.inputs, in_memory[batch.index])


def test_reading_leaves_the_global_generators_as_they_are() -> None:
    random.seed(8)
    np.random.seed(8)
    torch.manual_seed(8)
    expected = (random.random(), np.random.rand(), torch.rand(1))
    random.seed(8)
    np.random.seed(8)
    torch.manual_seed(8)
    read(Augmented())
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


class OwnGenerator(Augmented):
    def __init__(self) -> None:
        self.draw = np.random.default_rng(0)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.draw.normal(size=4)), 0


class Given(Augmented):
    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> object:  # type: ignore[override]
        return self.items[row]


class Broken(Augmented):
    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        raise KeyError("image")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (OwnGenerator(), "two reads differ"),
        (Given((Path("cat.png"), 0)), "cannot join a tuple of 2: .*PosixPath.*collate_fn"),
        (
            Given((torch.ones(2), 0), (torch.ones(2), 1), (torch.ones(3), 1)),
            r"got \(\(2,\), \(\)\) in item 0 and \(\(3,\), \(\)\) in item 2: pad",
        ),
        (Broken(), r"reading item 0 raised KeyError: 'image' \(test_items.py:\d+\)"),
        ((torch.ones(2, 1), [0, 1]), r"got int at train\[1\]\[0\]"),
        ({"x": torch.ones(2, 1), "y": torch.ones(3)}, r"2 in train\['x'\] and 3 in train\['y'\]"),
        ((torch.tensor(1.0), torch.tensor(1)), "one row per example"),
        ((torch.eye(3).to_sparse(), torch.arange(3)), "to_dense"),
        (
            (
                torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
                torch.arange(2),
            ),
            "pad the rows to one length",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_data_that_cannot_be_used_names_the_item_and_a_remedy(data: object, words: str) -> None:
    with pytest.raises(ProblemError, match=words) as error:
        read(data)
    assert error.value.field == "train"


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield torch.zeros(3), 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataLoader(Augmented(), batch_size=3), "its dataset, its collate_fn.*batch_size"),
        (Stream(), "got Stream.*read them into a list"),
        ((item for item in [(torch.zeros(3), 0)]), "got generator.*read them into a list"),
    ],
)
def test_what_has_no_rows_by_number_is_refused(data: object, words: str) -> None:
    with pytest.raises(ProblemError, match=words) as error:
        read(data)
    assert error.value.field == "train"
