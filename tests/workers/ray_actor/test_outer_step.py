"""From results of replicas on disjoint shards to the next state: in a round, and one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.meta import MetaSpec
from drmad_workers import spec_adapter
from drmad_workers.meta.state import initial_state
from drmad_workers.ray_actor import outer_step
from drmad_workers.ray_actor.iteration_record import finite_means, not_finite_means
from drmad_workers.ray_actor.messages import (
    PackedState,
    ReplicaResult,
    RollbackRequired,
    StepResult,
)
from drmad_workers.ray_actor.packed_state import pack, unpack

ROWS, COUNT = 61, 3
INFOS = [
    {
        "name": name,
        "kind": name,
        "shape": shape,
        "transform": transform,
        "lower": None,
        "upper": None,
        "groups": [],
    }
    for name, shape, transform in (("sample_weight", [ROWS], "sigmoid"), ("l2", [1], "exp"))
]


def spec(**replicas: object) -> JobSpec:
    return JobSpec.model_validate(
        {
            "problem": {"data": {"name": "digits", "train": ROWS, "valid": 30, "test": 0}},
            "hyperparameters": [{"kind": "sample_weight"}, {"kind": "l2", "per": "model"}],
            "training": {"steps": 6, "batch_size": 10},
            "hypergradient": {"method": "stored"},
            "replicas": {"count": COUNT, "data": "disjoint"} | replicas,
        }
    )


@pytest.fixture(scope="module")
def begun() -> PackedState:
    return pack(initial_state(spec_adapter.tuner(spec()).hyperparameters))


@pytest.fixture(scope="module")
def results(begun: PackedState) -> list[ReplicaResult]:
    found = []
    for replica in range(COUNT):
        tuner = spec_adapter.tuner(spec(), replica)
        evaluation = tuner.evaluate(unpack(begun).hyperparameters, 0)
        sizes = (tuner.train_examples.rows, tuner.valid_examples.rows)
        found.append(ReplicaResult(replica, evaluation, *sizes, "node", "cpu"))
    return found


def shard(replica: int) -> Tensor:
    positions = spec_adapter.shards(spec()).positions("train", ROWS, replica)
    assert positions is not None
    return positions


def moved(begun: PackedState, after: PackedState, name: str = "sample_weight") -> Tensor:
    before, now = unpack(begun), unpack(after)
    return now.hyperparameters[name] - before.hyperparameters[name]


def test_round_moves_every_weight_by_the_gradient_of_its_own_shard(
    begun: PackedState, results: list[ReplicaResult]
) -> None:
    step = outer_step.meta_step(spec(), INFOS, begun, 0, results)
    assert isinstance(step, StepResult)
    for result in results:
        own = result.evaluation.hypergradient["sample_weight"][shard(result.replica)]
        # The first step of Adam goes by the sign of the gradient.
        went = moved(begun, step.state)[shard(result.replica)]
        torch.testing.assert_close(
            went[own != 0.0], -0.3 * own.sign()[own != 0.0], atol=1e-2, rtol=0
        )
    figures = step.record["replicas"]
    assert [f["train_examples"] for f in figures] == [20, 20, 21]
    assert [f["valid_examples"] for f in figures] == [10, 10, 10]
    assert [f["staleness"] for f in figures] == [0, 0, 0]
    assert all(f["cosine_to_mean"] > 0.5 for f in figures)


def test_a_round_is_judged_by_what_no_replica_differentiated(begun: PackedState) -> None:
    job = spec(data="shared").model_copy(update={"meta": MetaSpec(judging_share=0.2)})
    found = []
    for replica in range(COUNT):
        tuner = spec_adapter.tuner(job, replica)
        evaluation = tuner.evaluate(unpack(begun).hyperparameters, 0)
        found.append(ReplicaResult(replica, evaluation, ROWS, tuner.valid_examples.rows, "", "cpu"))
    step = outer_step.meta_step(job, INFOS, begun, 0, found)
    assert isinstance(step, StepResult)
    assert {result.valid_examples for result in found} == {24}
    judged = [result.evaluation.validation_loss for result in found]
    fitted = [result.evaluation.metrics["fitted_loss"] for result in found]
    assert step.record["validation_loss"] == pytest.approx(math.fsum(judged) / COUNT)
    assert step.record["metrics"]["fitted_loss"] == pytest.approx(math.fsum(fitted) / COUNT)
    assert step.record["metrics"]["overfitting"] == 0.0
    assert step.warnings == {}


def test_trials_of_the_replicas_are_averaged_and_choose_the_start_of_the_update(
    begun: PackedState, results: list[ReplicaResult]
) -> None:
    job = spec().model_copy(update={"meta": MetaSpec(optimizer="auto")})
    first = outer_step.meta_step(job, INFOS, begun, 0, results)
    assert isinstance(first, StepResult)
    before, state = unpack(begun), unpack(first.state)
    losses = [result.evaluation.validation_loss for result in results]
    tried = [
        replace(result, trials=(loss + 1.0, loss + 1.0, loss + shift))
        for result, loss, shift in zip(results, losses, (1.0, -1.0, -1.0), strict=True)
    ]
    second = outer_step.meta_step(job, INFOS, first.state, 0, tried)
    assert isinstance(second, StepResult)
    name = "sample_weight"
    start, taken = before.hyperparameters[name], state.hyperparameters[name]
    torch.testing.assert_close(
        unpack(second.state).optimizer[f"before/{name}"], start + 3.0 * (taken - start)
    )
    assert second.record["cost"] == pytest.approx(first.record["cost"] + 3.0)


def test_shard_of_a_straggler_stays_where_it_was(
    begun: PackedState, results: list[ReplicaResult]
) -> None:
    step = outer_step.meta_step(spec(wait_for=2), INFOS, begun, 0, results[:2])
    assert isinstance(step, StepResult)
    again = outer_step.meta_step(spec(wait_for=2), INFOS, step.state, 0, results[1:])
    assert isinstance(again, StepResult)
    assert not moved(begun, step.state)[shard(2)].any()
    assert not moved(step.state, again.state)[shard(0)].any()
    assert moved(step.state, again.state)[shard(2)].any()
    assert moved(begun, step.state, "l2").any()


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_rollback_leaves_rows_in_place_that_no_replica_held(
    optimizer: str, begun: PackedState, results: list[ReplicaResult]
) -> None:
    """The rows have moments of an earlier meta-iteration, which alone would move them."""
    job = spec(wait_for=2).model_copy(
        update={"meta": MetaSpec.model_validate({"optimizer": optimizer})}
    )
    first = outer_step.meta_step(job, INFOS, begun, 0, results[:2])
    assert isinstance(first, StepResult)
    best = outer_step.meta_step(job, INFOS, first.state, 0, results[1:])
    assert isinstance(best, StepResult)
    assert isinstance(best.hypergradient, bytes)
    again = outer_step.roll_back(job, INFOS, best.state, first.state, best.hypergradient, [1, 2])
    absent = shard(0)
    assert not moved(first.state, again)[absent].any()
    kept, after = unpack(first.state).optimizer, unpack(again).optimizer
    for slot, moments in kept.items():
        if slot.endswith("/sample_weight"):
            torch.testing.assert_close(
                after[slot].expand(ROWS)[absent], moments.expand(ROWS)[absent], rtol=0, atol=0
            )
    for replica in (1, 2):
        half = 0.5 * moved(first.state, best.state)[shard(replica)]
        torch.testing.assert_close(moved(first.state, again)[shard(replica)], half)
    assert unpack(again).step_scale == 0.5


def test_arrivals_move_what_their_replica_holds_and_are_judged_together(
    begun: PackedState, results: list[ReplicaResult]
) -> None:
    job = spec(mode="async")
    state = begun
    for result in results:
        arrived = outer_step.arrival(job, INFOS, state, result)
        assert not isinstance(arrived, RollbackRequired)
        figures, after = arrived
        others = torch.ones(ROWS, dtype=torch.bool)
        others[shard(result.replica)] = False
        assert not moved(state, after)[others].any()
        assert moved(state, after)[~others].any()
        assert moved(state, after, "l2").any()
        assert figures["validation_loss"] == result.evaluation.validation_loss
        state = after
    step = outer_step.arrivals_step(job, INFOS, begun, state, 0, results, [0, 1, 2])
    assert isinstance(step, StepResult)
    assert torch.equal(moved(begun, step.state), moved(begun, state))
    assert unpack(step.state).iteration == 1
    losses = [result.evaluation.validation_loss for result in results]
    assert step.record["validation_loss"] == pytest.approx(sum(losses) / COUNT)
    assert [figures["staleness"] for figures in step.record["replicas"]] == [0, 1, 2]
    # In a round of disjoint shards each weight has one gradient too: they end at the same place.
    together = outer_step.meta_step(spec(), INFOS, begun, 0, results)
    assert isinstance(together, StepResult)
    torch.testing.assert_close(moved(begun, together.state), moved(begun, state))


def test_arrival_without_a_finite_loss_is_rolled_back(
    begun: PackedState, results: list[ReplicaResult]
) -> None:
    diverged = replace(results[0].evaluation, validation_loss=math.nan)
    arrived = outer_step.arrival(
        spec(mode="async"), INFOS, begun, replace(results[0], evaluation=diverged)
    )
    assert isinstance(arrived, RollbackRequired)


def test_metrics_that_are_no_finite_numbers_are_kept_apart_as_such() -> None:
    figures = [
        {"good": 1.0, "lost": math.nan, "up": math.inf, "both": math.inf, "down": -math.inf},
        {"good": 3.0, "lost": 1.0, "up": 1.0, "both": -math.inf, "down": 0.0},
    ]
    assert finite_means(figures) == {"good": 2.0}
    expected = {"lost": "nan", "up": "inf", "both": "nan", "down": "-inf"}
    assert not_finite_means(figures) == expected
