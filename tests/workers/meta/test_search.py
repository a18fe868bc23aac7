"""What a search tries next, and the training runs that it asks for."""

from __future__ import annotations

import math
from typing import Any

import pytest

from drmad_workers import L2, TrainingConfig, TrainingDiverged
from drmad_workers.catalog import build_problem
from drmad_workers.meta.search import propose
from tests.workers.small import tuner_of

PARAMETERS: dict[str, dict[str, Any]] = {
    "training.learning_rate": {"low": 1e-4, "high": 1.0, "log": True, "integer": False},
    "problem.options.width": {"low": 1.0, "high": 8.0, "log": False, "integer": True},
    "problem.model.activation": {"choices": ["tanh", "relu"]},
}


def loss_of(values: dict[str, Any]) -> float | None:
    """Best at a learning rate of 0.01, a width of 4 and tanh; diverges above 0.3."""
    rate, width, activation = (values[path] for path in PARAMETERS)
    if rate > 0.3:
        return None
    return float(abs(math.log10(rate) + 2) + abs(width - 4) / 8 + (activation != "tanh"))


def searched(sampler: str, seed: int, trials: int = 40, width: int = 2) -> list[Any]:
    """As the service does it: trial n is drawn from those up to n - width."""
    known: list[Any] = []
    for number in range(trials):
        usable = known[: max(0, number - width + 1)]
        values = propose(PARAMETERS, sampler, seed, number, usable)
        known.append((values, loss_of(values)))
    return known


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_proposal_is_a_function_of_the_trials_before(sampler: str) -> None:
    known = searched(sampler, seed=3, trials=16)
    again = propose(PARAMETERS, sampler, 3, 14, known[:13])
    assert again == known[14][0]
    assert propose(PARAMETERS, sampler, 4, 14, known[:13]) != again
    for values, _ in known:
        assert 1e-4 <= values["training.learning_rate"] <= 1.0
        assert values["problem.options.width"] in range(1, 9)
        assert isinstance(values["problem.options.width"], int)
        assert values["problem.model.activation"] in ("tanh", "relu")


def test_tpe_learns_from_the_trials_and_from_those_that_diverged() -> None:
    """Over 8 seeds, the last half of 40 trials is better than the first, and diverges less."""
    first, last, diverged = 0.0, 0.0, 0
    for seed in range(8):
        losses = [loss if loss is not None else 4.0 for _, loss in searched("tpe", seed)]
        first += sum(losses[:20])
        last += sum(losses[20:])
        diverged += sum(loss == 4.0 for loss in losses[:20])
        diverged -= sum(loss == 4.0 for loss in losses[20:])
    assert last < 0.75 * first
    assert diverged > 0


def test_training_without_derivatives_gives_the_loss_of_the_first_meta_iteration() -> None:
    problem = build_problem({"name": "mlp"}, {"name": "digits", "train": 200, "valid": 100})
    training = TrainingConfig(steps=20, batch_size=20, learning_rate=0.1)
    tuner = tuner_of(problem, [L2(per="layer", init=-3.0)], training)
    figures = tuner.train(tuner.initial_values())
    evaluation = tuner.evaluate(tuner.initial_values(), 0)
    assert figures["validation_loss"] == pytest.approx(evaluation.validation_loss, rel=1e-6)
    assert figures["validation_error"] == evaluation.metrics["validation_error"]
    assert figures["test_error"] == evaluation.metrics["test_error"]


def test_training_that_diverges_says_so() -> None:
    problem = build_problem({"name": "mlp"}, {"name": "digits", "train": 200, "valid": 100})
    training = TrainingConfig(steps=200, batch_size=20, learning_rate=1000.0)
    tuner = tuner_of(problem, [L2(per="layer", init=3.0)], training)
    with pytest.raises(TrainingDiverged):
        tuner.train(tuner.initial_values())
