"""The validation of a hypergradient, judged by plain loops over torch.optim."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from drmad_client.records.side_runs.validation import ValidationReport as Record
from drmad_workers import (
    L2,
    LearningRate,
    MetaConfig,
    Problem,
    ProblemError,
    Replay,
    SampleWeight,
    Shortcut,
    Stopped,
    TrainingConfig,
)
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.validation.changes import left_out_rows
from drmad_workers.validation.yardstick import (
    FIRST_DRAW,
    Retraining,
    ValidationSettings,
    Yardstick,
    validate,
)
from tests.workers.small import small_problem, tuner_of

TRAINING = TrainingConfig("sgd", steps=40, batch_size=10, learning_rate=0.05, momentum=0.9)
SETTINGS = ValidationSettings(changes=12, draws=3)


def plainly_trained(problem: Problem, weights: Tensor, draw: int) -> float:
    """The validation loss after SGD of torch.optim, with a weight for every example."""
    model = problem.model
    given = [parameter.detach().clone() for parameter in model.parameters()]
    examples = Examples(problem.train, "train", torch.device("cpu"), torch.float64)
    minibatches = Minibatches(examples, TRAINING.batch_size, (0, draw, 0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(TRAINING.steps):
        batch = minibatches.join(step)
        losses = nn.functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")
        optimizer.zero_grad()
        (losses * weights[batch.index]).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    inputs, targets = problem.valid
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(model(inputs), targets))
        for parameter, before in zip(model.parameters(), given, strict=True):
            parameter.copy_(before)
    return loss


def test_retraining_without_a_subset_is_what_a_plain_loop_gives() -> None:
    problem = small_problem(rows=60)
    yardstick = Yardstick(tuner_of(problem, [SampleWeight()], TRAINING), SETTINGS)
    known = yardstick.differentiate()
    for retraining in yardstick.retrainings[:19]:
        weights = torch.full((60,), 0.5, dtype=torch.float64)
        if retraining.change is not None:
            weights[left_out_rows(retraining.change, 60, 0)] = 0.0
        loss = yardstick.retrain(known, retraining)
        assert loss is not None
        expected = plainly_trained(problem, weights, FIRST_DRAW)
        assert loss == pytest.approx(expected, rel=1e-10)


def test_the_prediction_of_a_subset_is_the_derivative_of_whole_training_runs() -> None:
    problem = small_problem(rows=60)
    yardstick = Yardstick(tuner_of(problem, [SampleWeight()], TRAINING), SETTINGS)
    known = yardstick.differentiate()
    for retraining, predicted in zip(
        yardstick.retrainings[1:25:4], known.predictions[:24:4], strict=True
    ):
        assert retraining.change is not None
        rows = left_out_rows(retraining.change, 60, 0)
        losses = []
        for share in (-1e-4, 1e-4):
            weights = torch.full((60,), 0.5, dtype=torch.float64)
            weights[rows] *= 1.0 - share
            losses.append(plainly_trained(problem, weights, FIRST_DRAW))
        assert predicted == pytest.approx((losses[1] - losses[0]) / 2e-4, rel=1e-5)


def test_a_small_step_along_a_direction_changes_the_loss_as_predicted() -> None:
    tuner = tuner_of(small_problem(rows=60), [L2(per="unit", init=-4.0)], TRAINING)
    yardstick = Yardstick(tuner, ValidationSettings(changes=6, draws=2, radii=(1e-3,)))
    known = yardstick.differentiate()
    base, *rest = (yardstick.retrain(known, each) for each in yardstick.retrainings[:7])
    for predicted, actual in zip(known.predictions, rest, strict=True):
        assert base is not None
        assert actual is not None
        assert predicted == pytest.approx(actual - base, rel=0.01, abs=1e-9)


def test_calm_training_is_predicted_and_wrong_predictions_are_not() -> None:
    tuner = tuner_of(small_problem(rows=60), [SampleWeight(), L2(per="weight")], TRAINING)
    yardstick = Yardstick(tuner, SETTINGS)
    known = yardstick.differentiate()
    losses = [yardstick.retrain(known, each) for each in yardstick.retrainings]
    report = yardstick.report(known, losses)
    assert {name: each.value or 0.0 for name, each in report.lds.items()} == pytest.approx(
        {"sample_weight": 0.97, "l2": 0.97}, abs=0.03
    )
    assert report.verdict.grade == "predicts"
    assert report.fidelity == pytest.approx(1.0)
    assert report.gain is not None
    assert report.gain.low is not None
    assert report.gain.low > 0.0
    assert report.gain.count == 3
    assert report.gain_per_run == pytest.approx(report.gain.mean / 4.0)
    # A probe of replay costs 4 runs, three draws 12, and one of them is the method's own.
    assert report.runs == 4.0 + 3 * 4.0 + len(losses)

    turned = yardstick.report(replace(known, predictions=[-p for p in known.predictions]), losses)
    assert (turned.lds["l2"].value or 0.0) == pytest.approx(-(report.lds["l2"].value or 0.0))
    assert turned.verdict.grade == "does_not_predict"


def test_the_outer_step_is_tried_on_draws_that_did_not_choose_it() -> None:
    problem = small_problem(rows=60)
    meta = MetaConfig("sgd", learning_rate=20.0)
    yardstick = Yardstick(tuner_of(problem, [SampleWeight()], TRAINING), SETTINGS, meta)
    known = yardstick.differentiate()
    pairs = yardstick.retrainings[-6:]
    assert [each.draw for each in pairs] == [1, 1, 2, 2, 3, 3]
    losses = [yardstick.retrain(known, each) for each in yardstick.retrainings]
    found = yardstick.report(known, losses).gain
    gains = []
    for draw in (1, 2, 3):
        before, after = (
            plainly_trained(problem, logits.sigmoid(), FIRST_DRAW + draw)
            for logits in (torch.zeros(60, dtype=torch.float64), known.stepped["sample_weight"])
        )
        gains.append(before - after)
    assert found is not None
    assert found.mean == pytest.approx(fmean(gains), rel=1e-6)


def test_agreement_is_the_mean_cosine_of_the_exact_hypergradients_of_the_draws() -> None:
    tuner = tuner_of(small_problem(rows=60), [SampleWeight()], TRAINING, Shortcut(horizon=4))
    known = Yardstick(tuner, SETTINGS).differentiate()
    exact = [
        tuner_of(small_problem(rows=60), [SampleWeight()], TRAINING, Replay())
        .evaluate(tuner.initial_values(), 0, draw=FIRST_DRAW + draw)
        .hypergradient["sample_weight"]
        for draw in range(3)
    ]
    short = tuner.evaluate(tuner.initial_values(), 0, draw=FIRST_DRAW).hypergradient

    def cosine(one: Tensor, other: Tensor) -> float:
        return float(nn.functional.cosine_similarity(one, other, dim=0))

    cosines = [cosine(exact[i], exact[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert known.agreement is not None
    assert known.agreement.cosine == pytest.approx(fmean(cosines), rel=1e-6)
    assert (known.agreement.low, known.agreement.high) == pytest.approx(
        (min(cosines), max(cosines)), rel=1e-6
    )
    assert known.fidelity == pytest.approx(cosine(short["sample_weight"], exact[0]), rel=1e-6)
    assert known.cost == pytest.approx(1.0 + 2.0 * 4 / 40)


def test_auto_is_validated_by_the_method_that_it_chooses() -> None:
    tuner = tuner_of(small_problem(rows=60), [SampleWeight()], TRAINING, Auto(min_cosine=0.3))
    known = Yardstick(tuner, SETTINGS).differentiate()
    assert known.method["method"] == "shortcut"
    assert known.cost < 4.0
    assert known.agreement is not None
    assert known.agreement.draws == 3


def test_a_diverging_change_ranks_last_and_is_counted() -> None:
    tuner = tuner_of(small_problem(rows=60), [LearningRate(per="model")], TRAINING)
    yardstick = Yardstick(tuner, ValidationSettings(changes=8, draws=2, radii=(1e6,)))
    known = yardstick.differentiate()
    losses = [yardstick.retrain(known, each) for each in yardstick.retrainings]
    (found,) = yardstick.report(known, losses).correlations
    assert found.diverged == losses[1:9].count(None) > 0
    assert found.retrainings == 8


def test_one_draw_for_all_has_no_agreement() -> None:
    tuner = tuner_of(small_problem(rows=60), [L2()], replace(TRAINING, resample=False))
    report = validate(tuner, ValidationSettings(changes=5, draws=4))
    assert report.agreement is None
    assert "resample: false" in report.unknown
    assert report.gain is not None
    assert report.gain.count == 1


def test_the_report_is_the_record_of_the_service() -> None:
    seen: list[tuple[int, int]] = []
    tuner = tuner_of(small_problem(rows=60), [SampleWeight(), L2()], TRAINING)
    report = validate(
        tuner,
        ValidationSettings(changes=5, draws=2),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    fields = json.loads(json.dumps(report.as_dict()))
    record = Record.model_validate(fields)
    assert record.model_dump() == fields
    assert seen[0][0] == 0
    assert seen[-1] == (seen[-1][1] - 1, len(seen))
    assert record.agreement is not None
    shared = record.agreement.cosine
    assert record.agreement.of_four == pytest.approx(4 * shared / (1 + 3 * shared))


def test_a_validation_stops_on_request() -> None:
    tuner = tuner_of(small_problem(rows=60), [SampleWeight()], TRAINING)
    yardstick = Yardstick(tuner, SETTINGS)
    known = yardstick.differentiate()
    with pytest.raises(Stopped):
        yardstick.retrain(known, Retraining(), should_stop=lambda: True)
    with pytest.raises(Stopped):
        yardstick.differentiate(should_stop=lambda: True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"changes": 2}, "changes must be at least 5, got 2"),
        ({"draws": 1}, "draws must be at least 2, got 1"),
        ({"fractions": (0.1, 1.0)}, "fractions must be above 0 and below 1, got 1.0"),
    ],
)
def test_settings_have_bounds(wrong: Mapping[str, object], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        ValidationSettings(**wrong)  # type: ignore[arg-type]
