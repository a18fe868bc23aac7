"""The outer optimizer `auto`: retraining chooses the length of Adam's steps."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from drmad_workers import (
    L2,
    MetaConfig,
    MetaState,
    ProblemError,
    Replay,
    TrainingConfig,
    Tuner,
    meta_update,
    tune,
)
from drmad_workers.meta.rollback import rolled_back
from drmad_workers.meta.update import Bounds, trial_points
from drmad_workers.tuning import trial_losses
from tests.workers.small import small_problem

CONFIG = MetaConfig("auto", iterations=40)
TRAINING = TrainingConfig(steps=6, batch_size=4, learning_rate=0.3)


def descend(
    curvature: float, start: float, iterations: int = 40, config: MetaConfig = CONFIG
) -> tuple[list[float], int, MetaState]:
    """Minimizes curvature/2 λ², whose value is the validation loss: losses, trials, last state."""
    state, tried, losses = MetaState({"x": torch.tensor([start, -start])}), 0, list[float]()

    def loss(values: dict[str, Tensor]) -> float:
        return 1.0 + 0.5 * curvature * float(values["x"].square().sum())

    for _ in range(iterations):
        trials = [loss(point) for point in trial_points(state, {})]
        tried += len(trials)
        losses.append(loss(state.hyperparameters))
        gradient = {"x": curvature * state.hyperparameters["x"]}
        state = meta_update(state, losses[-1], gradient, config, trials=trials)
        state = MetaState.restore(state.tensors(), state.scalars())
    return losses, tried, state


@pytest.mark.parametrize("start", [0.02, 1.0, 40.0])
def test_the_step_finds_its_length_whatever_the_unit(start: float) -> None:
    """Adam at .3 is far too long for the first start, and cannot reach the last."""
    losses, tried, _ = descend(1.0 / start**2, start)
    assert losses[0] == pytest.approx(2.0, rel=1e-6)
    assert min(losses) < 1.03
    assert losses[-1] < 1.1
    assert tried <= 20


def test_a_resumed_search_changes_no_bit() -> None:
    whole, _, state = descend(1.0, 3.0, 9)
    again, _, other = descend(1.0, 3.0, 9)
    assert whole == again
    assert all(torch.equal(tensor, other.tensors()[n]) for n, tensor in state.tensors().items())


def test_updates_that_did_not_help_are_taken_back() -> None:
    """The loss rises wherever λ goes, against what its gradient says; Adam would be at -3.6."""
    state = MetaState({"x": torch.tensor([0.0])})
    for _ in range(12):
        trials = [abs(float(point["x"])) for point in trial_points(state, {})]
        loss = abs(float(state.hyperparameters["x"]))
        state = meta_update(
            state, 1.0 + loss, {"x": torch.ones(1)}, CONFIG, trials=[1 + t for t in trials]
        )
    assert abs(float(state.optimizer["anchor/x"])) < 0.05
    assert abs(float(state.hyperparameters["x"])) < 0.5


def test_a_trial_that_diverged_loses() -> None:
    _, _, state = descend(1.0, 3.0, 1)
    points = trial_points(state, {})
    assert len(points) == 3
    after = meta_update(
        state, 1.0, {"x": torch.ones(2)}, CONFIG, trials=[math.inf, math.nan, math.inf]
    )
    assert torch.equal(after.optimizer["before/x"], state.hyperparameters["x"])


def test_a_trial_stays_within_the_bounds() -> None:
    bounds = {"x": Bounds(0.0, 1.0)}
    begun = MetaState({"x": torch.tensor([0.9])})
    state = meta_update(begun, 1.0, {"x": -torch.ones(1)}, CONFIG, bounds)
    assert all(float(point["x"]) <= 1.0 for point in trial_points(state, bounds))


def test_a_rollback_shortens_the_step() -> None:
    _, _, best = descend(1.0, 3.0, 4)
    state = replace(best, iteration=best.iteration + 1)
    after = rolled_back(state, best, {"x": best.hyperparameters["x"]}, CONFIG)
    assert float(after.optimizer["line/rate"]) < 0.5 * float(best.optimizer["line/rate"])
    assert trial_points(after, {}) == []


def test_a_trial_has_the_draw_of_the_meta_iteration() -> None:
    tuner = Tuner(small_problem(), [L2()], TRAINING, Replay(), dtype=torch.float64)
    values = tuner.initial_values()
    for draw in (0, 3):
        (loss,) = trial_losses(tuner, [values], draw)
        assert loss == pytest.approx(tuner.evaluate(values, draw).validation_loss, rel=1e-12)


def test_tuning_counts_trials_and_continues_bit_for_bit() -> None:
    def run(iterations: int, state: MetaState | None = None) -> MetaState:
        meta = MetaConfig("auto", iterations=iterations, confirmation=0.0)
        result = tune(small_problem(), [L2()], TRAINING, Replay(), meta, state=state)
        assert result.state is not None
        return result.state

    whole = run(6)
    plain = MetaConfig("adam", iterations=6, confirmation=0.0)
    adam = tune(small_problem(), [L2()], TRAINING, Replay(), plain).state
    assert adam is not None
    assert whole.runs >= adam.runs + 4.0
    assert whole.runs - adam.runs == pytest.approx(round(whole.runs - adam.runs), abs=1e-9)
    meta = MetaConfig("auto", iterations=6, confirmation=0.0)
    tuner = Tuner(small_problem(), [L2()], TRAINING, Replay())
    state = MetaState(tuner.initial_values())
    for iteration in range(3):
        found = tuner.evaluate(state.hyperparameters, iteration)
        tried = trial_losses(tuner, trial_points(state, {}), iteration)
        state = meta_update(
            state,
            found.validation_loss,
            found.hypergradient,
            meta,
            metrics=found.metrics,
            cost=found.cost + len(tried),
            trials=tried,
        )
    resumed = run(6, MetaState.restore(state.tensors(), state.scalars()))
    assert resumed.scalars() == whole.scalars()
    assert all(torch.equal(each, whole.tensors()[n]) for n, each in resumed.tensors().items())


def test_auto_is_refused_where_no_window_can_be_repeated() -> None:
    with pytest.raises(ProblemError, match="take adam"):
        MetaConfig("auto", mode="online")
