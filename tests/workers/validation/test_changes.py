"""Changes of the hyperparameters, and what a hypergradient predicts of them."""

from __future__ import annotations

import torch

from drmad_workers import L2, LossWeight, SampleWeight, TrainingConfig
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.validation.changes import (
    Change,
    changed,
    changes_of,
    left_out_rows,
    predicted,
    predicted_by_scores,
)
from tests.workers.small import small_problem, tuner_of

TRAINING = TrainingConfig(steps=10, batch_size=6, learning_rate=0.1)


def test_examples_are_left_out_and_all_other_kinds_move_along_directions() -> None:
    kinds: list[Kind] = [
        SampleWeight(),
        SampleWeight("by_class", per="class"),
        L2(per="layer"),
        LossWeight(),
    ]
    bound = tuner_of(small_problem(rows=40), kinds, TRAINING).hyperparameters
    found = changes_of(bound, 3, (0.01, 0.02, 0.1), (0.1, 1.0))
    sizes = {(each.name, each.kind, each.size) for each in found}
    # 1 % and 2 % of 40 examples are one example both.
    expected = {("sample_weight", "left_out", 0.01), ("sample_weight", "left_out", 0.1)}
    for name in ("by_class", "l2", "loss_weight"):
        expected |= {(name, "direction", 0.1), (name, "direction", 1.0)}
    assert sizes == expected
    assert len(found) == 3 * len(expected)


def test_subsets_are_distinct_rows_and_a_function_of_the_seed() -> None:
    one, other = (Change("sample_weight", "left_out", 0.1, number) for number in (0, 1))
    rows = left_out_rows(one, 200, 5)
    assert len(set(rows.tolist())) == 20
    assert torch.equal(rows, left_out_rows(one, 200, 5))
    assert not torch.equal(rows, left_out_rows(other, 200, 5))
    assert not torch.equal(rows, left_out_rows(one, 200, 6))


def test_leaving_out_predicts_by_the_derivative_in_the_weights() -> None:
    bound = tuner_of(small_problem(rows=40), [SampleWeight()], TRAINING).hyperparameters
    (weight,) = bound.values()
    change = Change("sample_weight", "left_out", 0.1, 0)
    value = torch.linspace(-2.0, 2.0, 40, dtype=torch.float64)
    by_weight = torch.linspace(-1.0, 3.0, 40, dtype=torch.float64)  # ∂f/∂σ(λ)
    by_logit = by_weight * value.sigmoid() * (1.0 - value.sigmoid())
    after = changed(change, weight, value, 1.0, 0)
    rows = left_out_rows(change, 40, 0)
    assert (after.sigmoid()[rows] < 1e-17).all()
    expected = -float((by_weight * value.sigmoid())[rows].sum())
    assert abs(predicted(change, value, after, by_logit) - expected) < 1e-12
    assert abs(predicted_by_scores(rows, by_weight * value.sigmoid()) - expected) < 1e-12


def test_a_direction_has_its_length_in_outer_steps_and_stays_within_the_bounds() -> None:
    kinds: list[Kind] = [L2(per="weight", lower=-9.2)]
    bound = tuner_of(small_problem(rows=40), kinds, TRAINING).hyperparameters
    value = bound["l2"].initial
    change = Change("l2", "direction", 0.5, 0)
    moved = changed(change, bound["l2"], value, 0.2, 0) - value
    assert abs(float(moved.square().mean().sqrt()) - 0.1) < 0.03
    gradient = torch.ones_like(value)
    assert abs(predicted(change, value, value + moved, gradient) - float(moved.sum())) < 1e-12
    far = changed(Change("l2", "direction", 100.0, 0), bound["l2"], value, 1.0, 0)
    assert (far == -9.2).any()
    assert (far >= -9.2).all()
