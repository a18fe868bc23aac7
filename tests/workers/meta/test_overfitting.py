"""Validation examples that judge: no hypergradient sees them, and they tell overfitting."""

import math

import pytest
import torch

from drmad_workers import (
    L2,
    MetaConfig,
    MetaState,
    ProblemError,
    Replay,
    SampleWeight,
    Shards,
    TrainingConfig,
    Tuner,
    meta_update,
    tune,
)
from drmad_workers.meta.loss_history import levels, record_loss
from drmad_workers.meta.overfitting import overfitting_doubt
from drmad_workers.meta.update import Bounds
from tests.workers.meta.updates import START, gradients
from tests.workers.small import small_problem

TRAINING = TrainingConfig(steps=6, batch_size=4, learning_rate=0.3)


@pytest.mark.parametrize("layout", ["shared", "disjoint", "overlapping"])
def test_no_replica_differentiates_an_example_that_judges_another(layout: str) -> None:
    share = 0.5 if layout == "overlapping" else None
    shards = Shards(layout, 3, valid=share, judging=0.2, seed=4)  # type: ignore[arg-type]
    parts = [shards.validation(90, replica) for replica in range(3)]
    differentiated = {int(row) for seen, _ in parts if seen is not None for row in seen}
    judging = {int(row) for _, judges in parts if judges is not None for row in judges}
    assert not differentiated & judging
    assert len(judging) == 18
    for seen, judges in parts:
        assert seen is not None
        assert judges is not None
        assert len(judges) == pytest.approx(0.2 * (len(seen) + len(judges)), abs=1)


def test_the_hypergradient_is_that_of_the_other_examples_alone() -> None:
    """Changed labels of the judges change the validation loss, and no bit of the hypergradient."""
    shards = Shards(judging=0.34)
    given = small_problem()
    _, judges = shards.validation(9, 0)
    assert judges is not None
    found = []
    for other in (False, True):
        problem = small_problem()
        inputs, labels = problem.valid
        if other:
            labels[judges] = (labels[judges] + 1) % 3
        problem.valid = inputs, labels
        tuner = Tuner(problem, [L2()], TRAINING, Replay(), dtype=torch.float64, shards=shards)
        found.append(tuner.evaluate(tuner.initial_values(), 0))
    first, second = found
    assert torch.equal(first.hypergradient["l2"], second.hypergradient["l2"])
    assert first.metrics["fitted_loss"] == second.metrics["fitted_loss"]
    assert first.validation_loss != second.validation_loss
    whole = Tuner(given, [L2()], TRAINING, Replay(), dtype=torch.float64)
    loss = whole.evaluate(whole.initial_values(), 0).validation_loss
    assert loss == pytest.approx(
        (3 * first.validation_loss + 6 * first.metrics["fitted_loss"]) / 9, rel=1e-9
    )


def test_retraining_measures_the_same_two_losses() -> None:
    tuner = Tuner(
        small_problem(), [L2()], TRAINING, Replay(), dtype=torch.float64, shards=Shards(judging=0.2)
    )
    values = tuner.initial_values()
    evaluation, retrained = tuner.evaluate(values, 0), tuner.train(values, 0)
    assert retrained["validation_loss"] == pytest.approx(evaluation.validation_loss, rel=1e-12)
    assert retrained["fitted_loss"] == pytest.approx(evaluation.metrics["fitted_loss"], rel=1e-12)


def test_a_share_without_any_example_is_refused() -> None:
    with pytest.raises(ProblemError, match="at least one of them and not all, got 0") as caught:
        Tuner(small_problem(), [L2()], TRAINING, Replay(), shards=Shards(judging=0.05))
    assert caught.value.field == "meta.judging_share"


def _history(gap_per_iteration: float, noise: float = 0.01) -> MetaState:
    """Losses whose fitted part falls by .02 an iteration, and whose other part falls less."""
    draw = torch.Generator().manual_seed(1)
    state = MetaState(dict(START))
    for iteration in range(12):
        jitter = noise * torch.randn(2, generator=draw)
        fitted = 1.0 - 0.02 * iteration + float(jitter[0])
        judged = 1.3 - (0.02 - gap_per_iteration) * iteration + float(jitter[1])
        state = record_loss(state, judged, {"fitted_loss": fitted})
    return state


def test_a_gap_that_eats_the_gain_is_a_warning_and_a_smaller_one_is_none() -> None:
    overfitted = _history(0.018)
    doubt = overfitting_doubt(overfitted.start_figures, overfitted.recent_metrics)
    assert doubt is not None
    assert "meta.regularization" in doubt
    assert levels(overfitted)["overfitting"].mean == pytest.approx(0.018 * 11, abs=0.05)
    healthy = _history(0.004)
    assert overfitting_doubt(healthy.start_figures, healthy.recent_metrics) is None
    unclear = _history(0.018, noise=0.3)
    assert overfitting_doubt(unclear.start_figures, unclear.recent_metrics) is None


def test_the_gap_counts_from_the_first_meta_iteration() -> None:
    state = MetaState(dict(START))
    for judged, fitted in ((2.0, 1.5), (1.9, 1.2)):
        state = record_loss(state, judged, {"fitted_loss": fitted})
    assert [each["overfitting"] for each in state.recent_metrics] == pytest.approx([0.0, 0.2])


def test_tuning_goes_by_the_judges() -> None:
    meta = MetaConfig(iterations=3, judging_share=0.34, confirmation=0.0)
    result = tune(small_problem(), [SampleWeight()], TRAINING, Replay(), meta)
    assert result.state is not None
    losses = [evaluation.validation_loss for evaluation in result.evaluations]
    assert list(result.state.recent_losses) == losses
    assert all("overfitting" in metrics for metrics in result.state.recent_metrics)


def test_regularization_pulls_towards_the_start() -> None:
    """The update for g + ρ (λ - λ_0) / N, by plain gradient descent."""
    config = MetaConfig("sgd", learning_rate=0.1, regularization=6.0)
    state, expected = MetaState(dict(START)), START["l2"].clone()
    for iteration in range(4):
        gradient = gradients(iteration)["l2"] + 6.0 * (expected - START["l2"]) / 3
        expected = expected - 0.1 * gradient
        state = meta_update(state, 1.0, gradients(iteration), config)
        state = MetaState.restore(state.tensors(), state.scalars())
    torch.testing.assert_close(state.hyperparameters["l2"], expected)


def test_regularization_pulls_towards_the_mean_of_the_class() -> None:
    """The update for the derivative by autograd of ρ/2 mean((λ_i - m_i)²), m the class's mean."""
    config = MetaConfig("sgd", learning_rate=0.5, regularization=3.0)
    groups = torch.tensor([0, 2, 0, -1, 2, 2])
    bounds = {"weight": Bounds(pull_groups=groups)}
    draw = torch.Generator().manual_seed(1)
    expected = torch.randn(6, generator=draw, dtype=torch.float64)
    state = MetaState({"weight": expected.clone()})
    for _ in range(4):
        hypergradient = torch.randn(6, generator=draw, dtype=torch.float64)
        raw = expected.clone().requires_grad_()
        apart = [raw[groups == group] - raw[groups == group].mean() for group in (0, 2)]
        spread = torch.cat(apart).square().sum()
        (pull,) = torch.autograd.grad(3.0 / 2 * spread / 6, raw)
        expected = expected - 0.5 * (hypergradient + pull)
        state = meta_update(state, 1.0, {"weight": hypergradient}, config, bounds)
        state = MetaState.restore(state.tensors(), state.scalars())
    torch.testing.assert_close(state.hyperparameters["weight"], expected)


def test_a_strong_pull_gives_the_examples_of_a_class_one_weight() -> None:
    """So strong a pull leaves what the class has in common, which itself moves freely."""
    spreads, means = [], []
    classes = small_problem().train[1]
    for pull_to in ("start", "class"):
        # ρ η / N is one half: every step halves the distance to what the pull is towards.
        pull = 0.5 * len(classes)
        meta = MetaConfig("sgd", learning_rate=1.0, iterations=12, regularization=pull)
        kinds = [SampleWeight(pull_to=pull_to)]
        result = tune(small_problem(), kinds, TRAINING, Replay(), meta)
        assert result.state is not None
        weights = result.state.hyperparameters["sample_weight"]
        by_class = [weights[classes == number] for number in classes.unique()]
        spreads.append(max(float(each.std()) for each in by_class))
        means.append(max(abs(float(each.mean())) for each in by_class))
    assert spreads[1] < 2.0 * spreads[0]
    assert means[1] > 3.0 * means[0]


def test_weights_of_classes_have_no_class_to_be_pulled_to() -> None:
    with pytest.raises(ProblemError, match="per example") as caught:
        tune(small_problem(), [SampleWeight(per="class", pull_to="class")], TRAINING, Replay())
    assert caught.value.field == "hyperparameters.sample_weight.pull_to"


def test_a_strong_pull_keeps_the_weights_at_their_start() -> None:
    moved = []
    for pull in (0.0, 1e4):
        meta = MetaConfig("sgd", learning_rate=1e-4, iterations=5, regularization=pull)
        result = tune(small_problem(), [SampleWeight()], TRAINING, Replay(), meta)
        assert result.state is not None
        moved.append(float(result.state.hyperparameters["sample_weight"].abs().max()))
    assert all(math.isfinite(each) for each in moved)
    assert moved[1] < 0.9 * moved[0]
