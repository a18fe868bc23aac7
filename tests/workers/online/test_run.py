"""Windows of one run: their hypergradients, what carries over, and states that are kept."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from drmad_workers import (
    L2,
    CosineSchedule,
    Evaluation,
    Forward,
    LearningRate,
    Method,
    Momentum,
    OneStep,
    OnlineRun,
    Problem,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    TrainingState,
    Tuner,
    WeightDecay,
)
from tests.workers.judge.plain_training import Recipe, Trained, plain_training
from tests.workers.judge.verdict import STEP, directions_of, tuner_of
from tests.workers.small import CLASSES, small_problem

WINDOW = 4
Values = dict[str, Tensor]


def drawn(model: Callable[[], nn.Module], rows: int = 23) -> Callable[[], Problem]:
    """A small problem of such a model; 23 rows in minibatches of 4 end epochs within windows."""

    def build() -> Problem:
        problem = small_problem(model(), rows=rows)
        problem.initialize = "reset"
        return problem

    return build


def plain_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def normalised_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, CLASSES))


def noisy_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, CLASSES))


SGD = TrainingConfig(
    "sgd", steps=16, batch_size=4, learning_rate=0.2, momentum=0.8, precision="float64"
)
ADAM = replace(SGD, optimizer="adam", learning_rate=0.05, eps=1e-4)
WEIGHTS, PENALTY = SampleWeight(), L2(per="layer", init=-4.0)
RATES = (
    LearningRate(per="layer"),
    Momentum(per="model"),
    WeightDecay(per="model", init=-4.0),
)
RECIPES = {
    "momentum": Recipe(drawn(plain_model), (WEIGHTS, PENALTY), SGD),
    "cosine": Recipe(
        drawn(plain_model), (WEIGHTS,), replace(SGD, schedule=CosineSchedule(warmup=0.2))
    ),
    "adam": Recipe(drawn(plain_model), (WEIGHTS, PENALTY), ADAM),
    "adam rates": Recipe(
        drawn(plain_model), RATES, replace(ADAM, schedule=CosineSchedule(warmup=3))
    ),
    "sgd rates": Recipe(drawn(plain_model), RATES, replace(SGD, nesterov=True)),
    "muon": Recipe(drawn(plain_model), (WEIGHTS,), replace(ADAM, optimizer="muon")),
    "clipped and accumulated": Recipe(
        drawn(plain_model), (WEIGHTS,), replace(ADAM, clip_norm=0.3, accumulate=3)
    ),
    "running statistics": Recipe(drawn(normalised_model), (WEIGHTS, PENALTY), SGD),
    "dropout": Recipe(drawn(noisy_model), (WEIGHTS,), ADAM),
}


def values_of(tuner: Tuner, windows: int, scale: float = 0.3) -> list[Values]:
    """Other hyperparameters for every window."""
    draw = torch.Generator().manual_seed(3)

    def noise(value: Tensor) -> Tensor:
        return scale * torch.randn(value.shape, generator=draw, dtype=value.dtype)

    start = tuner.initial_values()
    return [{name: v + noise(v) for name, v in start.items()} for _ in range(windows)]


def plain_windows(recipe: Recipe, values: list[Values]) -> Trained:
    """A plain loop at other hyperparameters in every window."""
    later = {number * WINDOW: each for number, each in enumerate(values)}
    return plain_training(recipe, values[0], later=later, steps=WINDOW * len(values))


def windows(tuner: Tuner, values: list[Values], method: Method | None = None) -> list[Evaluation]:
    run = OnlineRun(tuner.replica, method or Stored(), WINDOW)
    with run.open():
        return [run.advance(each, measures=True, keep_model=True) for each in values]


def assert_same(one: Evaluation, other: Evaluation) -> None:
    assert one.validation_loss == other.validation_loss
    for found, expected in ((one.model, other.model), (one.hypergradient, other.hypergradient)):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", RECIPES)
def test_hypergradient_of_the_third_window_predicts_plain_retraining(name: str) -> None:
    recipe = RECIPES[name]
    tuner = tuner_of(recipe, Stored())
    values = values_of(tuner, 3)
    third = windows(tuner, values)[-1]
    for direction in directions_of(values[-1]):
        ends = [
            plain_windows(
                recipe,
                [
                    *values[:-1],
                    {
                        **values[-1],
                        direction.name: values[-1][direction.name] + sign * STEP * direction.along,
                    },
                ],
            ).validation_loss
            for sign in (1.0, -1.0)
        ]
        slope = (ends[0] - ends[1]) / (2.0 * STEP)
        found = float((third.hypergradient[direction.name] * direction.along).sum())
        assert abs(slope) > 1e-5
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", RECIPES)
def test_windows_without_an_outer_step_are_one_plain_training(name: str) -> None:
    recipe = RECIPES[name]
    tuner = tuner_of(recipe, Stored())
    values = values_of(tuner, 1) * 4
    last = windows(tuner, values)[-1]
    plain = plain_training(recipe, values[0])
    assert last.validation_loss == pytest.approx(plain.validation_loss, rel=1e-12)
    for part, expected in plain.model.items():
        assert torch.allclose(last.model[part], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "method", [Stored(), Replay(), Replay(horizon=7), Forward(), OneStep(), Shortcut(horizon=9)]
)
def test_a_window_of_all_steps_is_a_meta_iteration(method: Method) -> None:
    recipe = RECIPES["cosine" if isinstance(method, Forward) else "running statistics"]
    if isinstance(method, Forward):
        recipe = replace(recipe, kinds=RATES[:1])
    tuner = tuner_of(recipe, method)
    (values,) = values_of(tuner, 1)
    run = OnlineRun(tuner.replica, method, recipe.training.steps)
    with run.open(draw=2):
        found = run.advance(values, measures=True, keep_model=True)
    expected = tuner.evaluate(values, 2)
    assert_same(found, expected)
    assert found.metrics == expected.metrics


@pytest.mark.parametrize("method", [Replay(), Forward(), Shortcut(horizon=4, max_stride=1)])
def test_all_methods_differentiate_a_later_window(method: Method) -> None:
    """The shortcut rounds the points of the window."""
    recipe = replace(RECIPES["momentum"], kinds=(WEIGHTS,))
    values = values_of(tuner_of(recipe, Stored()), 3)
    exact = windows(tuner_of(recipe, Stored()), values)[-1].hypergradient["sample_weight"]
    found = windows(tuner_of(recipe, method), values, method)[-1].hypergradient["sample_weight"]
    error = float((found - exact).norm() / exact.norm())
    assert error < (0.02 if isinstance(method, Shortcut) else 1e-9)


@pytest.mark.parametrize("name", ["adam", "running statistics", "dropout", "cosine"])
def test_a_kept_state_continues_bit_for_bit_in_another_process(name: str) -> None:
    """Here in another tuner, from what a file would hold."""
    recipe = RECIPES[name]
    tuner = tuner_of(recipe, Stored())
    values = values_of(tuner, 4)
    whole = windows(tuner, values)
    run = OnlineRun(tuner.replica, Stored(), WINDOW)
    with run.open():
        for each in values[:2]:
            run.advance(each)
        kept = run.state()
    written = save(kept.tensors()), json.dumps(kept.scalars())
    other = OnlineRun(tuner_of(recipe, Stored()).replica, Stored(), WINDOW)
    with other.open(TrainingState.restore(load(written[0]), json.loads(written[1]))):
        for expected, each in zip(whole[2:], values[2:], strict=True):
            assert_same(other.advance(each, measures=True, keep_model=True), expected)


def test_the_users_model_has_its_weights_again_after_a_run() -> None:
    tuner = tuner_of(RECIPES["running statistics"], Stored())
    model = tuner.replica.objective.problem.model
    before = {name: t.clone() for name, t in model.state_dict().items()}
    windows(tuner, values_of(tuner, 2))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
