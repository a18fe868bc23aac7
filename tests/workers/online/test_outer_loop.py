"""Tuning in one run: what moves, what is repeated, what continues, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    InitScale,
    LearningRate,
    MetaConfig,
    Momentum,
    OnlineRun,
    Problem,
    ProblemError,
    Replay,
    Reversible,
    SampleWeight,
    Stored,
    TrainingConfig,
    TuningResult,
    tune,
)
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.online import run as online_run
from tests.workers.judge.plain_training import Recipe, plain_training
from tests.workers.judge.verdict import tuner_of
from tests.workers.online.test_run import ADAM, SGD, drawn, plain_model
from tests.workers.small import CLASSES, small_problem

ONLINE = MetaConfig(optimizer="adam", learning_rate=0.3, mode="online", window=4)
STILL = MetaConfig(optimizer="sgd", learning_rate=1e-300, mode="online", window=4)
"""No outer step that a number in float64 would show."""


def tuned(
    problem: Problem, training: TrainingConfig, meta: MetaConfig = ONLINE, **others: Any
) -> TuningResult:
    kinds: list[Kind] = others.pop("kinds", [SampleWeight()])
    return tune(problem, kinds, training, Stored(), meta, dtype=torch.float64, **others)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_rows_that_no_minibatch_of_a_window_has_do_not_move(optimizer: Any) -> None:
    """Neither do the numbers that the outer optimizer remembers of them."""
    problem, training = drawn(plain_model, 40)(), replace(SGD, steps=8)
    meta = replace(ONLINE, optimizer=optimizer)
    whole = tuned(problem, training, meta)
    states = [tuned(problem, replace(training, steps=4), meta), whole]
    rows = Minibatches(
        Examples(problem.train, "train", torch.device("cpu"), torch.float64), 4, (0, 0, 0)
    )
    used = [set(rows.index(4 * number, 4).tolist()) for number in range(2)]
    first, second = (each.state for each in states)
    assert first is not None
    assert second is not None
    before, after = (each.hyperparameters["sample_weight"] for each in (first, second))
    for row in range(40):
        assert bool(before[row] == 0.0) is (row not in used[0])
        assert bool(after[row] == before[row]) is (row not in used[1])
        for slot, kept in first.optimizer.items():
            assert bool(second.optimizer[slot][row] == kept[row]) is (row not in used[1]), slot


def test_a_source_that_no_minibatch_of_a_window_has_does_not_move() -> None:
    """The single row of the rare source is in one of the windows of the first epoch."""
    problem = drawn(plain_model, 40)()
    problem.columns = {"source": ["rare"] + ["common"] * 39}
    seen: list[Tensor] = []
    result = tuned(problem, replace(SGD, steps=8), kinds=[SampleWeight(per="source")])
    one = tuned(problem, replace(SGD, steps=4), kinds=[SampleWeight(per="source")])
    seen = [one.best["sample_weight"], result.best["sample_weight"]]
    rows = Minibatches(
        Examples(problem.train, "train", torch.device("cpu"), torch.float64), 4, (0, 0, 0)
    )
    used = [0 in rows.index(4 * number, 4) for number in range(2)]
    assert sum(used) == 1
    assert [bool(seen[0][1] != 0.0), bool(seen[1][1] != seen[0][1])] == used
    assert seen[0][0] != 0.0
    assert seen[1][0] != seen[0][0]


def test_a_longer_run_continues_a_shorter_one_bit_for_bit() -> None:
    problem = drawn(plain_model)()
    whole = tuned(problem, replace(ADAM, steps=24))
    part = tuned(problem, replace(ADAM, steps=12))
    rest = tuned(problem, replace(ADAM, steps=24), state=part.state, training_state=part.training)
    assert len(whole.evaluations) == 6
    assert len(rest.evaluations) == 3
    assert torch.equal(rest.best["sample_weight"], whole.best["sample_weight"])
    for one, other in zip(whole.evaluations[3:], rest.evaluations, strict=True):
        assert one.validation_loss == other.validation_loss
    last, expected = rest.evaluations[-1], whole.evaluations[-1]
    assert all(torch.equal(last.model[name], expected.model[name]) for name in expected.model)


def test_a_second_run_draws_anew_from_the_hyperparameters_of_the_first() -> None:
    problem = drawn(plain_model)()
    first = tuned(problem, replace(ADAM, steps=8))
    second = tuned(problem, replace(ADAM, steps=8), state=first.state)
    assert first.training is not None
    assert second.training is not None
    assert (first.training.draw, second.training.draw) == (0, 2)
    assert second.evaluations[0].validation_loss != first.evaluations[0].validation_loss
    assert second.state is not None
    assert second.state.iteration == 4


def test_the_cost_counts_the_gradients_of_the_outer_loss() -> None:
    """Here of 9 rows in each of 4 windows, where a step takes 4 rows."""
    result = tuned(drawn(plain_model)(), replace(SGD, steps=16))
    assert result.state is not None
    assert result.state.runs == pytest.approx(3.0 + 9 / 4 * 4 / 16)


def switching_loss(factor: list[float]) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss with a factor that the engine cannot see, because a list holds it."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return factor[0] * nn.functional.cross_entropy(outputs, targets, reduction="none")

    return loss


def test_windows_that_used_a_trace_of_another_function_are_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows 0, 3, 6 .. are verified. The loss changes after window 4; window 6 finds that out.

    The windows from 4 on are repeated, and are those of a plain loop whose loss changes there.
    """
    monkeypatch.setattr(online_run, "VERIFIED_STEPS", 12)
    training = replace(SGD, steps=40)
    factor, calls = [1.0], [0]

    def problem() -> Problem:
        made = small_problem(plain_model(), rows=23)
        made.initialize, made.loss = "reset", switching_loss(factor)
        return made

    seen: list[int] = []

    def change(iteration: int, _: object) -> None:
        seen.append(iteration)
        if iteration == 4:
            factor[0] = 0.5

    found = tuned(problem(), training, STILL, on_iteration=change)
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9]

    def counted() -> Problem:
        made = small_problem(plain_model(), rows=23)

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            factor[0] = 1.0 if calls[0] < 16 else 0.5
            calls[0] += 1
            return switching_loss(factor)(outputs, targets)

        made.initialize, made.loss = "reset", loss
        return made

    recipe = Recipe(counted, (SampleWeight(),), training)
    plain = plain_training(recipe, {"sample_weight": torch.zeros(23, dtype=torch.float64)})
    assert found.evaluations[-1].validation_loss == pytest.approx(plain.validation_loss, rel=1e-12)
    for name, expected in plain.model.items():
        assert torch.allclose(found.evaluations[-1].model[name], expected, rtol=1e-12, atol=1e-12)


class LateWriter(nn.Module):
    """Counts its passes in training, and writes into another buffer in one of them alone."""

    passes: Tensor
    scale: Tensor

    def __init__(self, at: int) -> None:
        super().__init__()
        self.layers = plain_model()
        self.at = at
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
            if int(self.passes) == self.at:
                self.scale.mul_(0.5)
        found: Tensor = self.layers(inputs) * self.scale
        return found


def test_a_value_that_training_changes_late_is_carried_from_the_last_verified_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also by another process, which did not see it change."""
    monkeypatch.setattr(online_run, "VERIFIED_STEPS", 12)
    training = replace(SGD, steps=40)
    recipe = Recipe(drawn(lambda: LateWriter(18)), (SampleWeight(),), training)
    seen: list[int] = []
    found = tuned(
        recipe.problem(), training, STILL, on_iteration=lambda number, _: seen.append(number)
    )
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9]
    plain = plain_training(recipe, {"sample_weight": torch.zeros(23, dtype=torch.float64)})
    for name, expected in plain.model.items():
        assert torch.allclose(
            found.evaluations[-1].model[name].double(), expected.double(), rtol=1e-12, atol=1e-12
        )
    short = tuned(recipe.problem(), replace(training, steps=28), STILL)
    assert short.training is not None
    assert [name for name, _ in short.training.names] == ["passes", "scale"]
    rest = tuned(
        recipe.problem(), training, STILL, state=short.state, training_state=short.training
    )
    last, expected_last = rest.evaluations[-1], found.evaluations[-1]
    assert last.validation_loss == expected_last.validation_loss
    assert all(torch.equal(last.model[n], part) for n, part in expected_last.model.items())


@pytest.mark.parametrize(
    ("kind", "stated", "refusal"),
    [
        (SampleWeight(), {"steps": 18}, "16 or 20 steps"),
        (InitScale(), {}, "the weights are drawn once"),
        (Momentum(per="step"), {}, "the rate of a step that was taken has no later use"),
    ],
)
def test_what_one_run_cannot_tune_is_refused(
    kind: Kind, stated: dict[str, Any], refusal: str
) -> None:
    with pytest.raises(ProblemError, match=refusal):
        tuned(small_problem(), replace(SGD, **stated), kinds=[kind])


def test_reversible_is_refused_because_it_starts_at_rest() -> None:
    with pytest.raises(ProblemError, match="take stored"):
        tune(small_problem(), [SampleWeight()], SGD, Reversible(), ONLINE)


def test_a_state_of_another_problem_or_window_is_refused() -> None:
    kept = tuned(drawn(plain_model)(), replace(SGD, steps=8)).training
    wider = Recipe(drawn(lambda: nn.Linear(4, CLASSES)), (SampleWeight(),), SGD)
    for recipe, window, match in (
        (wider, 4, "the training state must hold the weights"),
        (Recipe(drawn(plain_model), (SampleWeight(),), replace(SGD, steps=15)), 5, "between two"),
    ):
        run = OnlineRun(tuner_of(recipe, Stored()).replica, Stored(), window)
        with pytest.raises(ProblemError, match=match), run.open(kept):
            pass


def test_tuned_rates_come_with_a_warning_of_the_short_horizon() -> None:
    found = tuned(small_problem(), SGD, kinds=[LearningRate(per="model"), SampleWeight()])
    (limit,) = found.limits
    assert limit.startswith("learning_rate is tuned by what 4 of 16 steps gain")
    assert not tuned(small_problem(), SGD).limits
    whole = replace(ONLINE, window=16)
    assert not tuned(small_problem(), SGD, whole, kinds=[LearningRate(per="model")]).limits


def test_auto_takes_an_exact_method_that_recomputes_nothing() -> None:
    result = tune(small_problem(), [SampleWeight()], SGD, meta=ONLINE)
    assert {each.method for each in result.evaluations} == {"stored"}
    truncated = tune(small_problem(), [SampleWeight()], SGD, Replay(horizon=2), ONLINE)
    assert [each.backward_steps for each in truncated.evaluations] == [2] * 4


def test_patience_ends_a_run_early() -> None:
    training = replace(SGD, steps=400, learning_rate=1e-12)
    result = tuned(small_problem(), training, replace(ONLINE, patience=3))
    assert len(result.evaluations) < 10
    assert result.evaluations[-1].model
    assert result.training is not None
    assert result.training.step == 4 * len(result.evaluations)
