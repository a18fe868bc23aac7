"""Shards of the data: who holds what, and what a replica's hypergradient is on its own share."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    Problem,
    ProblemError,
    Replay,
    SampleWeight,
    Shards,
    TrainingConfig,
    TrainingData,
    Tuner,
    aggregate,
)
from drmad_workers.hyperparameters.base import Kind
from tests.workers.small import small_problem

TRAINING = TrainingConfig("damped_sgd", steps=12, batch_size=3, learning_rate=0.4, momentum=0.8)


def held(shards: Shards, rows: int) -> list[list[int]]:
    found = [shards.positions("train", rows, replica) for replica in range(shards.count)]
    return [list(range(rows)) if one is None else one.tolist() for one in found]


@pytest.mark.parametrize(("rows", "count"), [(12, 4), (13, 4), (4, 4), (1797, 3)])
def test_disjoint_shards_hold_every_example_once(rows: int, count: int) -> None:
    shards = held(Shards("disjoint", count), rows)
    assert sorted([*chain(*shards)]) == list(range(rows))
    assert {len(one) for one in shards} <= {rows // count, rows // count + 1}


@pytest.mark.parametrize(("rows", "count", "share"), [(12, 4, 0.5), (100, 3, 0.4), (30, 10, 0.1)])
def test_overlapping_shards_hold_every_example_about_as_often(
    rows: int, count: int, share: float
) -> None:
    shards = held(Shards("overlapping", count, share), rows)
    assert {len(one) for one in shards} == {round(share * rows)}
    times = np.bincount([*chain(*shards)], minlength=rows)
    assert times.min() >= math.floor(count * share)
    assert times.max() <= math.ceil(count * share) + 1


def test_shares_differ_by_seed_and_by_part_and_are_drawn_again() -> None:
    shards = Shards("disjoint", 2, seed=1)
    assert held(shards, 50) == held(Shards("disjoint", 2, seed=1), 50)
    assert held(shards, 50) != held(Shards("disjoint", 2, seed=2), 50)
    train, valid = (shards.positions(part, 50, 0) for part in ("train", "valid"))
    assert train is not None
    assert valid is not None
    assert not torch.equal(train, valid)
    assert Shards("shared", 2).positions("train", 50, 0) is None
    assert Shards("disjoint", 2, valid=1.0).positions("valid", 50, 0) is None


def test_replica_without_an_example_or_with_less_than_a_minibatch_is_refused() -> None:
    with pytest.raises(ProblemError, match="each of 5 replicas must hold at least one of the 3"):
        Shards("disjoint", 5).positions("train", 3, 0)
    with pytest.raises(ProblemError, match=r"examples \(2 of this replica\), got 3"):
        tuner(small_problem(), 0, Shards("disjoint", 6, valid=1.0))


def tuner(problem: Problem, replica: int, shards: Shards | None) -> Tuner:
    kinds: list[Kind] = [SampleWeight(), TrainingData(), L2(per="unit", init=-2.0)]
    return Tuner(problem, kinds, TRAINING, Replay(), 3, replica, dtype=torch.float64, shards=shards)


def alone(problem: Problem, shards: Shards, replica: int) -> tuple[Problem, Tensor]:
    """The same problem with nothing but the replica's own examples, and which they are."""
    train, valid = (
        shards.positions("train", len(problem.train[0]), replica),
        shards.positions("valid", len(problem.valid[0]), replica),
    )
    assert train is not None
    assert valid is not None
    own = Problem(
        problem.model,
        tuple(part[train] for part in problem.train),
        tuple(part[valid] for part in problem.valid),
        initialize=problem.initialize,
    )
    return own, train


def test_weights_and_data_on_disjoint_shards_get_exactly_their_own_shards_gradient() -> None:
    problem, shards = small_problem(), Shards("disjoint", 3)
    found, held_by = [], []
    joined: dict[str, Tensor] = {}
    for replica in range(3):
        sharded = tuner(problem, replica, shards)
        found.append(sharded.evaluate(sharded.initial_values(), 1))
        own, positions = alone(problem, shards, replica)
        held_by.append({"sample_weight": positions, "training_data": positions})
        single = tuner(own, replica, None)
        expected = single.evaluate(single.initial_values(), 1)
        assert found[-1].validation_loss == pytest.approx(expected.validation_loss, rel=1e-12)
        assert found[-1].metrics == pytest.approx(expected.metrics, rel=1e-12)
        for name in ("sample_weight", "training_data"):
            gradient = found[-1].hypergradient[name]
            torch.testing.assert_close(gradient[positions], expected.hypergradient[name])
            others = torch.ones(len(gradient), dtype=torch.bool)
            others[positions] = False
            assert not gradient[others].any()
            joined.setdefault(name, torch.zeros_like(gradient))[positions] = gradient[positions]
    together = aggregate([one.hypergradient for one in found], held=held_by)
    for name, gradient in joined.items():
        assert torch.equal(together[name], gradient)
        assert gradient.any()


def noisy_problem(rows: int, seed: int) -> Problem:
    """Classes on two overlapping clouds; many features, so that the weights want a penalty."""
    draw = torch.Generator().manual_seed(seed)
    direction = torch.randn(12, generator=draw)

    def part(count: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(count, 12, generator=draw)
        score = inputs @ direction + 2.0 * torch.randn(count, generator=draw)
        return inputs, (score > 0).long()

    return Problem(nn.Linear(12, 2), part(rows), part(rows // 2), initialize="reset")


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one.flatten() @ other.flatten() / one.norm() / other.norm())


@pytest.mark.full
def test_four_disjoint_replicas_point_closer_to_the_full_data_than_one() -> None:
    """l2 per unit; 12 data sets, the differences of the cosines paired by data set."""
    training = TrainingConfig("sgd", steps=40, batch_size=20, learning_rate=0.1, momentum=0.9)
    kinds: list[Kind] = [L2(per="unit", init=-3.0)]
    gains, singles = [], []
    for seed in range(12):
        problem = noisy_problem(160, seed)

        def gradient(problem: Problem, replica: int, shards: Shards | None, seed: int) -> Tensor:
            tuner = Tuner(problem, kinds, training, Replay(), seed, replica, shards=shards)
            return tuner.evaluate(tuner.initial_values(), 0).hypergradient["l2"]

        # Of the full data, the mean of several runs: its own first weights shall decide little.
        full = torch.stack([gradient(problem, 10 + r, None, seed) for r in range(3)]).mean(dim=0)
        shards = Shards("disjoint", 4, seed=seed)
        parts = [gradient(problem, replica, shards, seed) for replica in range(4)]
        (joined,) = aggregate([{"l2": part} for part in parts]).values()
        singles.append(float(np.mean([cosine(part, full) for part in parts])))
        gains.append(cosine(joined, full) - singles[-1])
    mean, error = np.mean(gains), np.std(gains, ddof=1) / math.sqrt(len(gains))
    # Student's t for 11 degrees of freedom, two-sided 95 %.
    assert mean - 2.201 * error > 0.0, (mean, error, singles)
