"""A session takes the windows of a job: as `tune` does, and again from any training state."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from drmad_workers import SampleWeight, Stored, TuningResult
from drmad_workers.errors import EngineError
from drmad_workers.evaluation import Evaluation
from drmad_workers.meta.state import MetaState, initial_state
from drmad_workers.meta.update import meta_update
from drmad_workers.online.outer_loop import touched
from drmad_workers.online.session import OnlineSession
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import tuner_of
from tests.workers.online.test_outer_loop import ONLINE, LateWriter, tuned
from tests.workers.online.test_run import ADAM, drawn, noisy_model, normalised_model, plain_model

MODELS = {
    "plain": plain_model,
    "running statistics": normalised_model,
    "dropout": noisy_model,
    "late": lambda: LateWriter(18),
}
TRAINING = replace(ADAM, steps=28)


def recipe_of(name: str) -> Recipe:
    return Recipe(drawn(MODELS[name]), (SampleWeight(),), TRAINING)


def session_of(recipe: Recipe) -> tuple[OnlineSession, MetaState]:
    tuner = tuner_of(recipe, Stored())
    return OnlineSession(tuner.replica, ONLINE.window), initial_state(tuner.hyperparameters)


def stepped(session: OnlineSession, state: MetaState) -> tuple[MetaState, Evaluation]:
    """One window with its outer step."""
    found = session.take(state.hyperparameters, state.iteration)
    moved = touched(found.hypergradient)
    loss, gradient = found.validation_loss, found.hypergradient
    return meta_update(state, loss, gradient, ONLINE, covered=moved), found


@pytest.mark.parametrize("name", MODELS)
def test_windows_of_a_session_are_those_of_tune_bit_for_bit(name: str) -> None:
    """Also where it is closed between them, restored by another, and trained a second time."""
    recipe = recipe_of(name)
    problem: Any = recipe.problem
    first: TuningResult = tuned(problem(), TRAINING)
    second = tuned(problem(), TRAINING, state=first.state)
    expected = [each.validation_loss for each in (*first.evaluations, *second.evaluations)]
    session, state = session_of(recipe)
    points: list[MetaState] = []
    losses, checkpoint = [], None
    for number in range(14):
        if number == 3:
            checkpoint = session.state()
        if number == 5:
            session.close()
        if number in (6, 13):  # another process
            session, _ = session_of(recipe)
            begun = 3 if number == 6 else 7
            kept = [each.hyperparameters for each in points[begun:]]
            session.restore(begun, checkpoint if number == 6 else None, kept)
        points.append(state)
        state, found = stepped(session, state)
        losses.append(found.validation_loss)
    assert losses == expected
    assert second.state is not None
    for slot, tensor in second.state.tensors().items():
        assert torch.equal(state.tensors()[slot], tensor)


def test_the_windows_that_a_run_verifies_by_itself_are_measured_and_have_the_model() -> None:
    session, state = session_of(recipe_of("plain"))
    measured = []
    for number in range(7):
        state, found = stepped(session, state)
        measured += [number] if found.model else []
    assert measured == [0, 6]


def test_a_window_without_its_training_state_is_refused() -> None:
    session, state = session_of(recipe_of("plain"))
    with pytest.raises(EngineError, match="before window 3 is expected, got that before window No"):
        session.take(state.hyperparameters, 3)
    state, _ = stepped(session, state)
    with pytest.raises(EngineError, match="restore it from a checkpoint"):
        session.take(state.hyperparameters, 2)


def test_a_closed_session_gives_the_model_back() -> None:
    tuner = tuner_of(recipe_of("running statistics"), Stored())
    model: nn.Module = tuner.objective.parameters.model
    given = {name: value.clone() for name, value in model.state_dict().items()}
    session = OnlineSession(tuner.replica, ONLINE.window)
    session.take(tuner.initial_values(), 0)
    session.close()
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())
