"""Items and collate functions that draw: the backward pass reads what the forward pass read."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from drmad_workers import (
    L2,
    Problem,
    ProblemError,
    Replay,
    SampleWeight,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.replica_batch import ReplicaBatch
from tests.workers.cases.small import (
    EXACT,
    INPUTS,
    TARGETS,
    each_loss,
    perceptron,
    recipe_of,
)
from tests.workers.judge.verdict import assert_right, faults, require_none, tuner_of

TRAINING = TrainingConfig("sgd", steps=8, batch_size=10, learning_rate=0.2, momentum=0.5)
KINDS: tuple[Kind, ...] = (SampleWeight(), L2(per="model", init=-3.0))


class Noisy(Dataset[Any]):
    """Items to which every global generator adds."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        row += self.start
        noise = torch.randn(INPUTS.shape[1], dtype=torch.float64) + random.gauss(0.0, 1.0)
        noise = noise + torch.from_numpy(np.random.normal(size=INPUTS.shape[1]))
        return INPUTS[row] + 0.2 * noise, TARGETS[row]


class Rare(Noisy):
    """One item draws, which is none of those that are tried first."""

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(()) if row == 37 else torch.zeros(())
        return INPUTS[self.start + row] + noise, TARGETS[self.start + row]


def masking(items: list[Any]) -> dict[str, Tensor]:
    """Covers entries of the inputs, as training of masked language models does."""
    inputs, labels = default_collate(items)
    covered = torch.rand(inputs.shape) < 0.3
    return {"input": inputs.masked_fill(covered, 0.0), "labels": labels, "covered": covered}


def rare() -> Problem:
    return Problem(perceptron(), Rare(0, 60), Rare(60, 100), loss=each_loss)


def masked() -> Problem:
    train, valid = (list(zip(INPUTS[p], TARGETS[p], strict=True)) for p in (TRAIN, VALID))
    return Problem(
        perceptron(), train, valid, collate_fn=masking,
        loss=lambda outputs, content: each_loss(outputs, content["labels"]),
    )  # fmt: skip


def both() -> Problem:
    return Problem(
        perceptron(), Noisy(0, 60), Noisy(60, 100), collate_fn=masking,
        loss=lambda outputs, content: each_loss(outputs, content["labels"]),
    )  # fmt: skip


TRAIN, VALID = slice(0, 60), slice(60, 100)
BUILDS = {"one item": rare, "collate_fn": masked, "both": both}


@pytest.mark.parametrize("name", BUILDS)
def test_exact_methods_agree_with_differences(name: str) -> None:
    """The judge takes the seeds alone, and reads and collates by itself."""
    assert_right(recipe_of(BUILDS[name], KINDS, TRAINING), EXACT, draws=(3,))


def test_training_is_that_of_a_plain_loop_with_the_same_draws() -> None:
    recipe = recipe_of(both, KINDS, TRAINING)
    require_none(faults(recipe, [Stored()], training_tolerance=1e-12))


def content_of(tuner: Tuner, step: int, draw: int = 0) -> Tensor:
    content = tuner.replica.minibatches(draw).join(step).content
    return torch.cat([part.double().flatten() for part in content.values()])


def test_every_read_of_a_step_has_the_same_bits_and_every_epoch_others() -> None:
    tuner = tuner_of(recipe_of(both, KINDS, TRAINING), Stored())
    forward = [content_of(tuner, step) for step in range(12)]
    torch.manual_seed(5)
    np.random.seed(5)
    backward = [content_of(tuner, step) for step in reversed(range(12))]
    assert all(map(torch.equal, forward, reversed(backward)))
    minibatches = tuner.replica.minibatches(0)
    read: dict[int, list[Tensor]] = {}
    for step in range(12):  # two epochs
        batch = minibatches.join(step)
        for row, inputs in zip(batch.index.tolist(), batch.content["input"], strict=True):
            read.setdefault(row, []).append(inputs)
    assert all(len(reads) == 2 and not torch.equal(*reads) for reads in read.values())


def test_seed_meta_iteration_and_replica_each_draw_anew() -> None:
    def first(seed: int = 0, draw: int = 0, replica: int = 0) -> Tensor:
        tuner = Tuner(both(), KINDS, TRAINING, Stored(), seed=seed, replica=replica)
        batch = tuner.replica.minibatches(draw)
        everything = batch.join(0, batch.per_epoch)
        inputs: Tensor = everything.content["input"][everything.index.argsort()]
        return inputs

    given = first()
    assert torch.equal(given, first())
    for other in (first(seed=1), first(draw=1), first(replica=1)):
        assert not torch.isclose(given, other).all(1).any()


def test_without_resampling_every_meta_iteration_repeats_the_first() -> None:
    fixed = TrainingConfig("sgd", steps=6, batch_size=10, learning_rate=0.2, resample=False)
    tuner = tuner_of(recipe_of(both, KINDS, fixed), Stored())
    values = tuner.initial_values()
    first, later = (tuner.evaluate(values, iteration) for iteration in (0, 4))
    assert first.validation_loss == later.validation_loss
    assert all(torch.equal(first.hypergradient[n], later.hypergradient[n]) for n in values)


def test_held_out_data_are_the_same_in_every_meta_iteration() -> None:
    one, other = (tuner_of(recipe_of(both, KINDS, TRAINING), Stored()) for _ in range(2))
    first = [one.valid_examples.chunk(0, 40).content["input"] for _ in range(2)]
    assert torch.equal(*first)
    assert torch.equal(first[0], other.valid_examples.chunk(0, 40).content["input"])


def test_items_that_draw_are_not_kept_and_others_are() -> None:
    reads: list[int] = []

    class Counted(Rare):
        def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
            reads.append(row)
            return super().__getitem__(row)

    class Plain(Counted):
        def __init__(self) -> None:
            super().__init__(0, 30)  # without the item that draws

    for data, again in ((Counted(0, 60), 10), (Plain(), 0)):
        problem = Problem(perceptron(), data, (INPUTS[VALID], TARGETS[VALID]), loss=each_loss)
        replica = Tuner(problem, KINDS, TRAINING, Stored()).replica
        reads.clear()
        replica.minibatches(0).join(0)
        assert len(reads) == again


def test_replicas_side_by_side_draw_their_own() -> None:
    problem = Problem(perceptron(), Noisy(0, 60), Noisy(60, 100), loss=each_loss)
    replicas = ReplicaBatch(
        problem, KINDS, TRAINING, Replay(), replicas=(0, 1), dtype=torch.float64
    )
    assert replicas.reason is None
    values = replicas.initial_values()
    expected = [tuner.evaluate(values, 1).hypergradient for tuner in replicas.tuners]
    for found, own in zip(replicas.evaluate(values, 1), expected, strict=True):
        for name in own:
            torch.testing.assert_close(found.hypergradient[name], own[name], rtol=1e-9, atol=1e-12)
    assert not torch.equal(expected[0]["sample_weight"], expected[1]["sample_weight"])


def remembering() -> Callable[[list[Any]], Any]:
    calls: list[int] = []

    def collate(items: list[Any]) -> Any:
        calls.append(len(items))
        inputs, targets = default_collate(items)
        return inputs + len(calls), targets

    return collate


def test_a_collate_function_with_a_state_of_its_own_is_refused() -> None:
    def build() -> Problem:
        return Problem(
            perceptron(), Noisy(0, 60), Noisy(60, 100), loss=each_loss, collate_fn=remembering()
        )

    with pytest.raises(ProblemError, match="two calls differ") as error:
        tuner_of(recipe_of(build, KINDS, TRAINING), Stored())
    assert error.value.field == "train"
