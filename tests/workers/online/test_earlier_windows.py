"""A horizon beyond the window: the backward pass goes on through the windows before."""

from dataclasses import replace

import pytest

from drmad_workers import (
    MetaConfig,
    OnlineRun,
    ProblemError,
    Replay,
    Stored,
    TrainingState,
    TuningResult,
    tune,
)
from drmad_workers.online.refusals import steps_before
from drmad_workers.online.session import OnlineSession
from tests.workers.judge.plain_training import plain_training
from tests.workers.judge.verdict import STEP, directions_of, tuner_of
from tests.workers.online.test_run import RECIPES, WINDOW, assert_same, values_of


@pytest.mark.parametrize("horizon", [WINDOW + 3, 2 * WINDOW, 2 * WINDOW + 1])
@pytest.mark.parametrize("name", RECIPES)
def test_hypergradient_is_that_of_a_shift_in_all_of_the_last_steps(name: str, horizon: int) -> None:
    recipe = RECIPES[name]
    tuner = tuner_of(recipe, Stored(horizon=horizon))
    values = values_of(tuner, 3)
    run = OnlineRun(tuner.replica, Stored(horizon=horizon), WINDOW)
    with run.open():
        third = [run.advance(each) for each in values][-1]
    assert third.backward_steps == horizon
    steps = 3 * WINDOW
    for direction in directions_of(values[-1]):
        ends = []
        for sign in (1.0, -1.0):
            later = {}
            for number, each in enumerate(values):
                shifted = {
                    **each,
                    direction.name: each[direction.name] + sign * STEP * direction.along,
                }
                begin, first = number * WINDOW, steps - horizon
                if begin >= first:
                    later[begin] = shifted
                else:
                    later[begin] = each
                    if first < begin + WINDOW:
                        later[first] = shifted
            ends.append(plain_training(recipe, values[0], later=later, steps=steps).validation_loss)
        slope = (ends[0] - ends[1]) / (2.0 * STEP)
        found = float((third.hypergradient[direction.name] * direction.along).sum())
        assert abs(slope) > 1e-5
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["momentum", "adam rates", "running statistics", "dropout"])
def test_windows_trained_again_lead_to_the_same_hypergradient(name: str) -> None:
    recipe = RECIPES[name]
    method = Stored(horizon=2 * WINDOW + 1)
    tuner = tuner_of(recipe, method)
    values = values_of(tuner, 4)
    session = OnlineSession(tuner.replica, WINDOW)
    session.take(values[0], 0)
    checkpoint = session.state()
    session.take(values[1], 1)
    session.close()
    session.take(values[2], 2)
    expected = session.take(values[3], 3)
    again = OnlineSession(tuner_of(recipe, method).replica, WINDOW)
    again.restore(1, checkpoint, values[1:3])
    assert_same(again.take(values[3], 3), expected)


def test_only_as_many_windows_are_kept_as_are_read() -> None:
    tuner = tuner_of(RECIPES["momentum"], Stored(horizon=WINDOW + 1))
    run = OnlineRun(tuner.replica, Stored(horizon=WINDOW + 1), WINDOW)
    with run.open():
        for each in values_of(tuner, 3):
            run.advance(each, verifies=True)
        assert [each.first for each in run._earlier.kept] == [2 * WINDOW]
        run.go_to(None)
        assert run._earlier.kept == []


def test_a_window_without_earlier_ones_is_that_of_its_own_steps() -> None:
    recipe = RECIPES["momentum"]
    found = []
    for method in (Stored(horizon=2 * WINDOW), Stored()):
        tuner = tuner_of(recipe, method)
        (values,) = values_of(tuner, 1)
        run = OnlineRun(tuner.replica, method, WINDOW)
        with run.open():
            found.append(run.advance(values, measures=True, keep_model=True))
    assert_same(*found)


def test_only_stored_goes_beyond_a_window() -> None:
    assert steps_before(Stored(horizon=9), WINDOW) == 5
    assert steps_before(Stored(horizon=3), WINDOW) == 0
    tuner = tuner_of(RECIPES["momentum"], Replay(horizon=9))
    with pytest.raises(ProblemError, match="horizon must be between 1 and"):
        OnlineRun(tuner.replica, Replay(horizon=9), WINDOW)


@pytest.mark.parametrize("name", ["momentum", "dropout"])
def test_tune_goes_on_from_a_training_state_bit_for_bit(name: str) -> None:
    recipe, method = RECIPES[name], Stored(horizon=2 * WINDOW + 1)
    meta = MetaConfig("adam", 0.1, mode="online", window=WINDOW)

    def tuned(windows: int, before: TuningResult | None = None) -> TuningResult:
        training = replace(recipe.training, steps=windows * WINDOW)
        state, kept = (None, None) if before is None else (before.state, before.training)
        return tune(
            recipe.problem(),
            recipe.kinds,
            training,
            method,
            meta,
            seed=0,
            state=state,
            training_state=kept,
        )

    whole, begun = tuned(6), tuned(3)
    rest = tuned(6, begun)
    for found, expected in zip(rest.evaluations, whole.evaluations[3:], strict=True):
        assert_same(found, expected)
    assert rest.evaluations[0].backward_steps == 2 * WINDOW + 1
    kept = begun.training
    assert kept is not None
    read = TrainingState.restore(kept.tensors(), kept.scalars())
    with pytest.raises(ProblemError, match="which has none of them: continue in the process"):
        tuned(6, replace(begun, training=read))
