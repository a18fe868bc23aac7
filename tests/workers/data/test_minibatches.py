"""Minibatches as functions of (seed, meta-iteration, replica, step)."""

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from drmad_workers import ProblemError
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.random_streams import Purpose, seed_of

CPU, DTYPE = torch.device("cpu"), torch.float64


class Squares(Dataset[tuple[Tensor, int]]):
    """Map-style: item i is (i, i²)."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < 11:
            raise IndexError(index)
        return torch.tensor([float(index)]), index**2


def examples(rows: int = 11) -> Examples:
    values = torch.arange(float(rows))
    return Examples((values[:, None], values.long() ** 2), "train", CPU, torch.float64)


def test_an_epoch_sees_no_example_twice() -> None:
    minibatches = Minibatches(examples(), 3, (0, 0, 0))
    epoch = torch.cat([minibatches.join(step).index for step in range(3)])
    assert len(set(epoch.tolist())) == 9
    following = torch.cat([minibatches.join(step).index for step in range(3, 6)])
    assert epoch.tolist() != following.tolist()


def test_any_step_comes_again_in_any_order() -> None:
    forward = Minibatches(examples(), 2, (5, 1, 0))
    seen = [forward.join(step).index.tolist() for step in range(40)]
    fresh = Minibatches(examples(), 2, (5, 1, 0))
    assert [fresh.join(step).index.tolist() for step in reversed(range(40))] == seen[::-1]


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_seed_iteration_and_replica_each_draw_anew(other: tuple[int, int, int]) -> None:
    first = Minibatches(examples(100), 50, (0, 0, 0)).join(0).index
    assert not torch.equal(first, Minibatches(examples(100), 50, other).join(0).index)


def test_joined_minibatches_are_those_of_their_steps_in_order() -> None:
    minibatches = Minibatches(examples(), 4, (0, 0, 0))
    joined = minibatches.join(1, 5)
    apart = [minibatches.join(step) for step in range(1, 6)]
    assert torch.equal(joined.index, torch.cat([batch.index for batch in apart]))
    assert torch.equal(joined.inputs, torch.cat([batch.inputs for batch in apart]))
    assert torch.equal(joined.targets, joined.index**2)


@pytest.mark.parametrize(
    "data", [Squares(), TensorDataset(torch.arange(11.0)[:, None], torch.arange(11) ** 2)]
)
def test_map_style_data_is_the_same_as_tensors(data: Dataset[object]) -> None:
    read, given = (each.chunk(0, 11) for each in (Examples(data, "train", CPU, DTYPE), examples()))
    assert torch.equal(read.inputs, given.inputs)
    assert torch.equal(read.targets, given.targets)


def test_large_map_style_data_is_read_as_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drmad_workers.data.items.IN_MEMORY_BYTES", 10)
    read = Examples(Squares(), "train", CPU, torch.float32)
    batch = Minibatches(read, 4, (0, 0, 0)).join(0)
    assert torch.equal(batch.targets, batch.index**2)
    assert [len(chunk.index) for chunk in read.chunks(4)] == [4, 4, 3]
    assert batch.inputs.dtype == torch.float32


@pytest.mark.parametrize("size", [0, 12])
def test_minibatch_must_fit_the_examples(size: int) -> None:
    with pytest.raises(ProblemError, match=f"between 1 and .* \\(11\\), got {size}"):
        Minibatches(examples(), size, (0, 0, 0))


@pytest.mark.parametrize(
    "data", [(torch.zeros(3, 1), torch.zeros(2)), 5, {1, 2, 3}, (torch.zeros(0, 1), torch.zeros(0))]
)
def test_data_of_another_kind_is_refused_by_name(data: object) -> None:
    with pytest.raises(ProblemError) as error:
        Examples(data, "valid", CPU, torch.float32)
    assert error.value.field == "valid"
    assert "valid must" in str(error.value)


def test_streams_of_different_purposes_share_nothing() -> None:
    assert seed_of(Purpose.NOISE, 0, 0, 0, 0) != seed_of(Purpose.NOISE, 0, 0, 0, 1)
    assert seed_of(Purpose.MINIBATCHES, 2) != seed_of(Purpose.WEIGHTS, 2)
    assert 0 <= seed_of(Purpose.MINIBATCHES, 2**62) < 2**63
