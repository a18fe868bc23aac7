"""The sentence of a validation, and its remedies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drmad_workers import L2, Problem, TrainingConfig, Tuner
from drmad_workers.hypergradients.agreement import DrawAgreement, draw_agreement
from drmad_workers.training.schedules import ConstantSchedule
from drmad_workers.validation.mean_interval import MeanInterval
from drmad_workers.validation.rank_correlation import RankCorrelation
from drmad_workers.validation.verdict import Findings, verdict
from tests.workers.small import small_problem, tuner_of

TRAINING = TrainingConfig(steps=50, batch_size=6, learning_rate=0.3)


@pytest.fixture(scope="module")
def tuner() -> Tuner:
    return tuner_of(small_problem(), [L2()], TRAINING)


def findings(
    lds: float | None, agreement: float | None = 0.8, fidelity: float = 1.0, gain: float = 1.0
) -> Findings:
    between = None if agreement is None else DrawAgreement(agreement, agreement, agreement, 4)
    worst = {"l2": RankCorrelation(lds), "better": RankCorrelation(0.99)}
    if lds is None:
        worst = {"l2": RankCorrelation(None)}
    return Findings(worst, fidelity, between, MeanInterval(gain, gain - 0.1, gain + 0.1, 4))


@pytest.mark.parametrize(
    ("found", "grade", "words"),
    [
        (findings(0.97), "predicts", "rank correlation 0.97 of l2, the lowest"),
        (findings(0.97, None), "predicts", "predicts what retraining does"),
        (findings(0.97, 0.2), "own_run_only", "cosine between draws 0.20"),
        (findings(0.6), "in_part", "not smooth"),
        (findings(0.6, 0.8, 0.3), "in_part", "off the exact hypergradient (cosine 0.30)"),
        (findings(0.2, 0.1, 0.3), "does_not_predict", "not smooth"),
        (findings(None), "unknown", "nothing to compare"),
    ],
)
def test_the_grade_follows_from_the_figures(
    tuner: Tuner, found: Findings, grade: str, words: str
) -> None:
    told = verdict(found, tuner)
    assert told.grade == grade
    assert words in told.sentence
    assert bool(told.remedies) is (grade != "predicts")


def test_remedies_are_those_that_the_model_and_the_training_lack() -> None:
    convolutional = nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv1d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    rows = torch.randn(20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part = (rows, torch.arange(20) % 3)
    warm = TrainingConfig(
        steps=50, batch_size=6, learning_rate=0.3, schedule=ConstantSchedule(warmup=5)
    )
    kinked = tuner_of(Problem(convolutional.double(), part, part), [L2()], warm)
    told = "; ".join(verdict(findings(0.2, 0.1), kinked).remedies)
    for words in (
        "a lower learning rate than 0.3",
        "a longer warm-up",
        "average pooling",
        "batch norm before the activation",
        "horizon: 5",
        "cosine between draws is 0.31",
    ):
        assert words in told
    smooth = tuner_of(small_problem(), [L2()], TRAINING)
    told = "; ".join(verdict(findings(0.2, 0.1), smooth).remedies)
    assert "a warm-up" in told
    assert "pooling" not in told
    assert "batch norm" not in told


def test_a_step_that_raises_the_loss_is_to_be_smaller(tuner: Tuner) -> None:
    (remedy,) = verdict(findings(0.97, gain=-1.0), tuner).remedies
    assert "meta.learning_rate" in remedy


def test_the_agreement_of_means_is_what_spearman_and_brown_expect() -> None:
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(20_000, generator=draw, dtype=torch.float64)

    def hypergradient(count: int) -> dict[str, torch.Tensor]:
        own = torch.randn(count, 20_000, generator=draw, dtype=torch.float64)
        return {"l2": (shared + 2.0 * own).mean(dim=0)}

    single = draw_agreement([hypergradient(1) for _ in range(6)])
    assert single.cosine == pytest.approx(0.2, abs=0.02)
    assert single.low <= single.cosine <= single.high
    means = draw_agreement([hypergradient(4) for _ in range(6)])
    assert single.averaged(4) == pytest.approx(means.cosine, abs=0.02)
    with pytest.raises(ValueError, match="at least two draws"):
        draw_agreement([hypergradient(1)])


def test_examples_that_one_draw_never_saw_do_not_count_as_disagreement() -> None:
    seen = torch.tensor([1.0, 2.0, 0.0, 3.0, 0.0])
    other = torch.tensor([2.0, 4.0, 5.0, 0.0, 0.0])
    assert draw_agreement([{"w": seen}, {"w": other}]).cosine == pytest.approx(1.0)
    nothing = torch.zeros(5)
    assert draw_agreement([{"w": seen}, {"w": nothing}]).cosine == 0.0
