"""Weights per example, class, source and group, against plain trainings and closed forms."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    Batch,
    Forward,
    Implicit,
    LossWeight,
    Method,
    Problem,
    ProblemError,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.data.shards import Shards
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.problem import Column
from drmad_workers.replica_batch import ReplicaBatch
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import assert_right
from tests.workers.small import tuner_of

ROWS, CLASSES = 12, 3
SOURCES = ["web", "books", "code", "books", "web", "web"] * 2
YEARS = torch.tensor([2024, 1999, 2024, 2010, 1999, 2010] * 2)
TRAINING = TrainingConfig("sgd", steps=5, batch_size=4, learning_rate=0.3, momentum=0.5)
MIXTURE = SampleWeight("mixture", per="source", normalised=True)


def problem() -> Problem:
    draw = torch.Generator().manual_seed(2)

    def part(rows: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(rows, 4, generator=draw, dtype=torch.float64)
        return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()

    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    columns: dict[str, Column] = {"source": SOURCES, "year": YEARS}
    return Problem(model, part(ROWS), part(9), columns=columns, initialize="reset")


def with_own_loss() -> Problem:
    def inner(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        outputs = forward(batch.inputs)
        losses = nn.functional.cross_entropy(outputs, batch.targets, reduction="none")
        by_source = hyperparameters["sample_weight"][batch.index]
        return (by_source * losses).mean()

    return replace(problem(), inner_loss=inner)


KINDS: dict[str, tuple[Kind, ...]] = {
    "class": (SampleWeight(per="class"),),
    "source": (SampleWeight(per="source"),),
    "numbered group": (SampleWeight(per="group", column="year"),),
    "normalised example": (SampleWeight(normalised=True),),
    "mixture of sources": (MIXTURE,),
    "example and mixture": (SampleWeight(), MIXTURE),
    "normalised and not": (
        SampleWeight(normalised=True),
        MIXTURE,
        SampleWeight("year", per="group", column="year"),
        LossWeight(),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_weights_of_groups_are_central_differences_of_plain_trainings(name: str) -> None:
    methods: list[Method] = [Stored(), Replay(), Forward()]
    assert_right(Recipe(problem, KINDS[name], TRAINING), methods)


def test_own_loss_gets_the_weight_of_every_training_row() -> None:
    kinds = (SampleWeight(per="source"),)
    assert_right(Recipe(with_own_loss, kinds, TRAINING), [Stored(), Forward()])


def test_gauss_newton_has_the_exact_derivative_by_a_mixture_on_a_linear_model() -> None:
    linear = replace(problem(), model=nn.Linear(4, CLASSES))
    method = Shortcut(interpolation_nodes=5, max_stride=1, contraction=False)
    exact = tuner_of(linear, [MIXTURE], TRAINING, Replay())
    approximate = tuner_of(linear, [MIXTURE], TRAINING, replace(method, curvature="gauss_newton"))
    values = {"mixture": torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)}
    expected = exact.evaluate(values, 0).hypergradient["mixture"]
    found = approximate.evaluate(values, 0).hypergradient["mixture"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_normalised_weights_have_no_common_factor() -> None:
    """Σ w ℓ / Σ w is a function of the ratios alone, as in the weighted mean of cross entropy."""
    tuner = tuner_of(problem(), [SampleWeight(per="class", normalised=True)], TRAINING)
    weights = torch.tensor([0.2, 0.4, 0.1], dtype=torch.float64)
    losses = [
        tuner.evaluate({"sample_weight": (factor * weights).logit()}, 0).validation_loss
        for factor in (1.0, 2.0)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_normalised_per_class_is_the_weighted_cross_entropy_of_torch() -> None:
    tuner = tuner_of(problem(), [SampleWeight(per="class", normalised=True)], TRAINING)
    objective, batch = tuner.objective, tuner.replica.minibatches(0).join(0)
    weights = torch.tensor([0.2, 0.4, 0.1], dtype=torch.float64)
    objective.set_hyperparameters({"sample_weight": weights.logit()})
    outputs = objective.parameters.model(batch.inputs)
    expected = nn.functional.cross_entropy(outputs, batch.targets, weight=weights).detach()
    assert float(objective.inner.loss(batch).detach()) == pytest.approx(float(expected), rel=1e-12)


def test_joined_minibatches_have_the_mean_of_their_normalised_losses() -> None:
    tuner = tuner_of(problem(), [SampleWeight(), MIXTURE], TRAINING)
    objective, minibatches = tuner.objective, tuner.replica.minibatches(0)
    objective.set_hyperparameters(
        {"sample_weight": torch.linspace(-2, 2, ROWS), "mixture": torch.tensor([1.0, 0.0, -1.0])}
    )
    with torch.no_grad():
        singles = [float(objective.inner.loss(minibatches.join(step))) for step in range(3)]
        joined = float(objective.inner.loss(minibatches.join(0, 3)))
    assert joined == pytest.approx(sum(singles) / 3, rel=1e-12)


def test_implicit_differentiates_the_mean_over_minibatches() -> None:
    """At w_T it returns -g_V (H + δI)⁻¹ ∂²L/∂w∂λ, here for full batches by autograd alone."""
    linear = replace(problem(), model=nn.Linear(4, CLASSES, bias=False))
    training = TrainingConfig("sgd", steps=20, batch_size=ROWS, learning_rate=0.5, momentum=0.9)
    kinds: list[Kind] = [SampleWeight("mixture", per="source", normalised=True)]
    tuner = tuner_of(linear, kinds, training, Implicit(tolerance=1e-6, damping=0.1))
    values = {"mixture": torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)}
    evaluation = tuner.evaluate(values, 0)
    weights = evaluation.model["weight"].reshape(-1)
    group = torch.tensor([sorted(set(SOURCES)).index(source) for source in SOURCES])

    def train(flat: Tensor, raw: Tensor) -> Tensor:
        inputs, targets = linear.train
        losses = nn.functional.cross_entropy(
            inputs @ flat.view(CLASSES, 4).T, targets, reduction="none"
        )
        each = raw.sigmoid()[group]
        return (each * losses).sum() / each.sum()

    def valid(flat: Tensor) -> Tensor:
        inputs, targets = linear.valid
        return nn.functional.cross_entropy(inputs @ flat.view(CLASSES, 4).T, targets)

    raw, weights = values["mixture"].requires_grad_(), weights.requires_grad_()
    (slope,) = torch.autograd.grad(valid(weights), weights)
    (gradient,) = torch.autograd.grad(train(weights, raw), weights, create_graph=True)
    rows = [
        torch.autograd.grad(each, (weights, raw), retain_graph=True) for each in gradient.unbind()
    ]
    hessian, mixed = (torch.stack(part) for part in zip(*rows, strict=True))
    damped = hessian + 0.1 * torch.eye(len(weights))
    expected = -mixed.T @ torch.linalg.solve(damped, slope)
    torch.testing.assert_close(evaluation.hypergradient["mixture"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("column", [SOURCES, tuple(SOURCES), np.array(SOURCES), pd.Series(SOURCES)])
def test_groups_are_labelled_by_the_values_of_their_column(column: Sequence[str]) -> None:
    tuner = tuner_of(
        replace(problem(), columns={"source": column}), [SampleWeight(per="source")], TRAINING
    )
    groups = tuner.hyperparameters["sample_weight"].groups
    assert [(g.label, g.start, g.stop) for g in groups] == [
        ("books", 0, 1), ("code", 1, 2), ("web", 2, 3),
    ]  # fmt: skip


def test_ignored_rows_have_no_weight_per_class() -> None:
    ignoring = problem()
    targets = ignoring.train[1].clone()
    targets[:3] = -100
    ignoring = replace(
        ignoring,
        train=(ignoring.train[0], targets),
        loss=nn.CrossEntropyLoss(reduction="none", ignore_index=-100),
    )
    tuner = tuner_of(
        ignoring,
        [SampleWeight(per="class", normalised=True)],
        replace(TRAINING, batch_size=ROWS),
    )
    batch = tuner.replica.minibatches(0).join(0)
    outputs = tuner.objective.parameters.model(batch.inputs)
    weights = torch.full((CLASSES,), 0.5, dtype=torch.float64)
    expected = nn.functional.cross_entropy(outputs, batch.targets, weight=weights).detach()
    found = tuner.objective.inner.loss(batch).detach()
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_replicas_hold_all_groups_whatever_their_shard() -> None:
    shards = Shards("disjoint", count=2, seed=1)
    training = replace(TRAINING, batch_size=3)
    kinds: list[Kind] = [MIXTURE]
    values = {"mixture": torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)}
    options: dict[str, Any] = {"dtype": torch.float64, "shards": shards}
    singles = [
        Tuner(problem(), kinds, training, Stored(), replica=number, **options).evaluate(values, 0)
        for number in (0, 1)
    ]
    batch = ReplicaBatch(problem(), kinds, training, Stored(), replicas=[0, 1], **options)
    assert batch.reason is None
    together = batch.evaluate(values, 0)
    for single, stacked in zip(singles, together, strict=True):
        assert single.hypergradient["mixture"].shape == (3,)
        torch.testing.assert_close(
            stacked.hypergradient["mixture"], single.hypergradient["mixture"]
        )


@pytest.mark.parametrize(
    ("kind", "columns", "field", "words"),
    [
        (SampleWeight(per="group"), {"a": [0] * ROWS}, "weight.column", "one of a, got None"),
        (SampleWeight(per="source"), {}, "weight.column", "none that it has, got 'source'"),
        (SampleWeight(per="class", column="a"), {}, "weight.column", "left out with per class"),
        (SampleWeight(per="source"), {"source": ["a"]}, "source", "got shape .1,"),
        (SampleWeight(per="source"), {"source": ["a", None] * 6}, "source", "a missing value"),
        (SampleWeight(per="source"), {"source": [0.5] * ROWS}, "source", "of float64"),
        (SampleWeight(per="row"), {}, "weight.per", "one of example, class"),  # type: ignore[arg-type]
    ],
)
def test_groups_that_cannot_be_are_refused(
    kind: SampleWeight, columns: Mapping[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ProblemError, match=words) as error:
        tuner_of(replace(problem(), columns=columns), [kind], TRAINING)
    assert str(error.value.field).endswith(field)


def test_two_weights_per_example_are_refused() -> None:
    with pytest.raises(ProblemError, match="at most one weight of an example"):
        tuner_of(problem(), [SampleWeight(), SampleWeight("other")], TRAINING)


def test_normalised_is_refused_beside_an_inner_loss() -> None:
    with pytest.raises(ProblemError, match="divide by the sum of the weights there"):
        tuner_of(with_own_loss(), [SampleWeight(normalised=True)], TRAINING)
