"""Retraining with tuned hyperparameters, judged by plain loops of torch.optim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from drmad_workers import (
    L2,
    LearningRate,
    Problem,
    ProblemError,
    RetrainingSettings,
    SampleWeight,
    TrainingConfig,
    TrainingData,
    error_rate,
    retrain,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.hyperparameters.example_weight import ExampleWeight
from drmad_workers.retraining.report import report
from drmad_workers.retraining.retrainer import FIRST_DRAW
from drmad_workers.validation.mean_interval import MeanInterval, mean_interval
from tests.workers.judge.plain_training import Recipe, plain_training
from tests.workers.small import small_problem

ROWS = 24
TRAINING = TrainingConfig("sgd", steps=20, batch_size=6, learning_rate=0.05, momentum=0.9)
SEEDS = 3


def problem(rows: Sequence[int] | None = None, valid: bool = False) -> Problem:
    """A problem with the given training rows, and the validation rows after them."""
    made = small_problem(rows=ROWS)
    inputs, targets = made.train
    kept = torch.arange(ROWS) if rows is None else torch.tensor(rows)
    parts = [(inputs[kept], targets[kept]), *([made.valid] if valid else [])]
    train = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    draw = torch.Generator().manual_seed(5)
    test = torch.randn(7, 4, generator=draw, dtype=torch.float64), torch.arange(7) % 3
    sources = [f"s{row % 3}" for row in kept.tolist()] + ["z"] * (9 if valid else 0)
    return replace(
        made,
        train=train,
        test=test,
        metrics={"error": error_rate},
        columns={"source": sources},
        initialize="reset",
    )


def judged(
    kinds: tuple[Kind, ...],
    values: Mapping[str, Tensor],
    rows: Sequence[int] | None = None,
    valid: bool = False,
) -> list[float]:
    """The test losses of plain training runs, by seed."""

    def build() -> Problem:
        made = problem(rows, valid)
        return replace(made, valid=made.test)

    recipe = Recipe(build, kinds, TRAINING)
    return [
        plain_training(recipe, values, FIRST_DRAW + seed).validation_loss for seed in range(SEEDS)
    ]


def agrees(found: MeanInterval | None, losses: Sequence[float]) -> bool:
    expected = mean_interval(losses)
    assert found is not None
    assert expected is not None
    both = zip(
        (found.mean, found.low, found.high, found.count),
        (expected.mean, expected.low, expected.high, expected.count),
        strict=True,
    )
    return all(one == pytest.approx(other, rel=1e-9) for one, other in both)


def weights(count: int) -> Tensor:
    return torch.linspace(-2.0, 2.0, count, dtype=torch.float64)[torch.randperm(count)]


def retrained(
    kinds: Sequence[Kind], values: Mapping[str, Tensor], settings: RetrainingSettings
) -> dict[str, tuple[MeanInterval | None, MeanInterval | None, MeanInterval | None]]:
    found = retrain(problem(), kinds, TRAINING, values, settings, dtype=torch.float64)
    return {
        name: (each.tuned, each.untuned, each.difference) for name, each in found.figures.items()
    }


def test_both_recipes_are_those_of_plain_loops_with_rates_stretched_to_the_steps() -> None:
    torch.manual_seed(0)
    kinds = (SampleWeight(), L2(per="model"), LearningRate(per="step"))
    rates = torch.linspace(-3.0, -4.0, 10, dtype=torch.float64)
    tuned = {"sample_weight": weights(ROWS), "l2": torch.tensor([-3.0]), "learning_rate": rates}
    found = retrained(kinds, tuned, RetrainingSettings(SEEDS))
    assert set(found) >= {"validation_loss", "validation_error", "test_loss", "test_error"}
    stretched = tuned | {"learning_rate": rates.repeat_interleave(2)}
    start = {
        "sample_weight": torch.zeros(ROWS),
        "l2": torch.tensor([L2().init]),
        "learning_rate": torch.full((20,), 0.05, dtype=torch.float64).log(),
    }
    one, other = judged(kinds, stretched), judged(kinds, start)
    assert len(set(one)) == SEEDS
    tuned_figure, untuned_figure, difference = found["test_loss"]
    assert agrees(tuned_figure, one)
    assert agrees(untuned_figure, other)
    assert agrees(difference, [a - b for a, b in zip(one, other, strict=True)])


def test_with_validation_its_rows_are_trained_on_with_weight_one_and_have_no_figures() -> None:
    torch.manual_seed(0)
    kinds = (SampleWeight(), SampleWeight("of_source", per="source"))
    tuned = {"sample_weight": weights(ROWS), "of_source": torch.tensor([0.5, -1.0, 2.0])}
    found = retrained(kinds, tuned, RetrainingSettings(SEEDS, with_validation=True))
    assert all(name.startswith("test_") for name in found)
    full = torch.full((9,), 40.0, dtype=torch.float64)
    values = {
        "sample_weight": torch.cat([tuned["sample_weight"], full]),
        "of_source": torch.cat([tuned["of_source"].double(), full[:1]]),
    }
    start = {"sample_weight": torch.zeros(ROWS + 9), "of_source": torch.zeros(4)}
    assert agrees(found["test_loss"][0], judged(kinds, values, valid=True))
    assert agrees(found["test_loss"][1], judged(kinds, start, valid=True))


@pytest.mark.parametrize(
    ("settings", "lowest"),
    [
        (RetrainingSettings(SEEDS, threshold=0.4), None),
        (RetrainingSettings(SEEDS, drop_lowest=0.25), 6),
        (RetrainingSettings(SEEDS, drop_lowest=2), 2),
    ],
)
def test_rows_of_low_weight_are_left_out_and_the_others_weigh_as_untuned(
    settings: RetrainingSettings, lowest: int | None
) -> None:
    torch.manual_seed(0)
    kinds = (SampleWeight(), L2(per="model"))
    tuned = {"sample_weight": weights(ROWS), "l2": torch.tensor([-3.0])}
    found = retrained(kinds, tuned, settings)
    own = tuned["sample_weight"].sigmoid().tolist()
    limit = 0.4 if lowest is None else sorted(own)[lowest]
    kept = [row for row in range(ROWS) if own[row] >= limit]
    assert 0 < len(kept) < ROWS
    values = {"sample_weight": torch.zeros(len(kept)), "l2": tuned["l2"]}
    assert agrees(found["test_loss"][0], judged(kinds, values, kept))


def test_scores_take_the_place_of_the_weights() -> None:
    scores = torch.linspace(1.0, 0.0, ROWS)
    made = problem()
    settings = RetrainingSettings(2, drop_lowest=3)
    found = retrain(made, [ExampleWeight()], TRAINING, {}, settings, scores, dtype=torch.float64)
    assert (found.rows, found.dropped, found.seeds, found.steps) == (ROWS, 3, 2, 20)
    kept = retrain(
        problem(range(ROWS - 3)),
        [ExampleWeight()],
        TRAINING,
        {},
        RetrainingSettings(2),
        dtype=torch.float64,
    )
    assert found.figures["test_loss"].tuned == kept.figures["test_loss"].untuned


def test_what_does_not_fit_is_refused_by_field() -> None:
    def refused(settings: RetrainingSettings, *kinds: Kind, **changes: object) -> str:
        made = replace(problem(), **changes)  # type: ignore[arg-type]
        with pytest.raises(ProblemError) as error:
            retrain(made, kinds, TRAINING, {}, settings)
        return f"{error.value.field}: {error.value}"

    assert "with_validation: " in refused(
        RetrainingSettings(with_validation=True), SampleWeight(), test=None
    )
    assert "tunes the training inputs" in refused(
        RetrainingSettings(with_validation=True), TrainingData()
    )
    assert "no sample_weight was tuned" in refused(RetrainingSettings(threshold=0.5), L2())
    assert "one minibatch, must be left, got 4 of 24" in refused(
        RetrainingSettings(drop_lowest=20), SampleWeight()
    )
    for wrong in ({"seeds": 1}, {"threshold": 1.0}, {"drop_lowest": 0.0}):
        with pytest.raises(ProblemError, match=f"{next(iter(wrong))} must be"):
            RetrainingSettings(**wrong)
    with pytest.raises(ProblemError, match="give one of them"):
        RetrainingSettings(threshold=0.5, drop_lowest=0.1)


def test_runs_that_diverge_count_in_no_figure_and_keep_no_model() -> None:
    untuned = [{"validation_loss": 1.0}, None, {"validation_loss": 3.0}]
    tuned = [None, {"validation_loss": 0.7}, {"validation_loss": 0.5}]
    found = report(20, 24, 0, False, untuned, tuned)
    assert (found.diverged, found.untuned_diverged, found.best_seed) == (1, 1, 2)
    figure = found.figures["validation_loss"]
    assert figure.tuned == mean_interval([0.7, 0.5])
    assert figure.untuned == mean_interval([1.0, 3.0])
    assert figure.difference == mean_interval([-2.5])
    assert report(20, 24, 0, False, untuned, [None] * 3).best_seed is None
    assert report(20, 24, 0, True, untuned, [None, {"test_loss": 2.0}, {}]).best_seed == 1
