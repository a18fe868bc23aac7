"""Digits with half of the labels drawn at random: what each arm finds, and retraining with it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from torch import Tensor, nn

from drmad_workers import (
    MetaConfig,
    Problem,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    error_rate,
    tune,
)

STEPS, BATCH, RATE, MOMENTUM = 500, 50, 0.1, 0.9
"""A training run: steps of SGD with momentum on minibatches of so many rows."""
RETRAININGS = 5
"""The plain trainings over whose draws the figures of an arm are means; two choose a setting."""


ROWS = slice(1000), slice(1000, 1300), slice(1300, None)


class Recipe(NamedTuple):
    """A model and its training by SGD with momentum."""

    model: Callable[[], nn.Module]
    steps: int
    batch: int
    rate: float


class Digits(NamedTuple):
    """Training, validation and test data, and whether each training label is wrong."""

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    wrong: Tensor


def digits(seed: int) -> Digits:
    """1,000, 300 and 497 rows; 500 of the training labels are drawn at random."""
    x, y = map(torch.tensor, shuffle(*load_digits(return_X_y=True), random_state=seed))
    x, truth = x.float() / 16, y[:1000].clone()
    draw = torch.Generator().manual_seed(seed)
    y[torch.randperm(1000, generator=draw)[:500]] = torch.randint(0, 10, (500,), generator=draw)
    train, valid, test = ((x[rows], y[rows]) for rows in ROWS)
    return Digits(train, valid, test, wrong=y[:1000] != truth)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 50), nn.Tanh(), nn.Linear(50, 10))


DIGITS = Recipe(model, STEPS, BATCH, RATE)


def problem(data: Digits, recipe: Recipe = DIGITS) -> Problem:
    return Problem(
        recipe.model(),
        data.train,
        data.valid,
        data.test,
        metrics={"error": error_rate},
        initialize="reset",
    )


def training(steps: int = STEPS, recipe: Recipe = DIGITS) -> TrainingConfig:
    return TrainingConfig("sgd", steps, recipe.batch, recipe.rate, MOMENTUM)


def retrained(
    data: Digits, weights: Tensor, draws: int = RETRAININGS, recipe: Recipe = DIGITS
) -> dict[str, float]:
    """Means over plain trainings with a weight for every example: losses and errors."""
    figures = [_retrained(data, weights, draw, recipe) for draw in range(draws)]
    return {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}


def _retrained(data: Digits, weights: Tensor, draw: int, recipe: Recipe) -> dict[str, float]:
    torch.manual_seed(10_000 + draw)
    trained = recipe.model()
    optimizer = torch.optim.SGD(trained.parameters(), recipe.rate, MOMENTUM)
    (x, y), order = data.train, torch.empty(0, dtype=torch.int64)
    for _ in range(recipe.steps):
        order = order if len(order) else torch.randperm(len(y))
        rows, order = order[: recipe.batch], order[recipe.batch :]
        losses = nn.functional.cross_entropy(trained(x[rows]), y[rows], reduction="none")
        optimizer.zero_grad()
        (weights[rows] * losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    figures = {}
    with torch.no_grad():
        for name, (inputs, targets) in (("validation", data.valid), ("test", data.test)):
            outputs = trained(inputs)
            figures[f"{name}_loss"] = float(nn.functional.cross_entropy(outputs, targets))
            figures[f"{name}_error"] = float(error_rate(outputs, targets))
    return figures


def figures_of(
    data: Digits,
    logits: Tensor,
    runs: float,
    draws: int = RETRAININGS,
    recipe: Recipe = DIGITS,
) -> dict[str, Any]:
    """What weights σ(λ) are worth, as they are and thresholded at one half."""
    weights = logits.sigmoid().float()
    lowest = weights.argsort()[: int(data.wrong.sum())]
    found = float(data.wrong[lowest].double().mean())
    thresholded = retrained(data, (weights >= 0.5).float(), draws, recipe)
    return {
        "found": found,
        "runs": runs,
        **retrained(data, weights, draws, recipe),
        "thresholded_test_error": thresholded["test_error"],
        "thresholded_validation_loss": thresholded["validation_loss"],
    }


def online(
    seed: int, steps: int, window: int, rate: float, draws: int = RETRAININGS
) -> dict[str, Any]:
    """One run; its work counts in runs of STEPS steps."""
    return online_on(digits(seed), DIGITS, seed, steps, window, rate, draws)


def online_on(
    data: Digits, recipe: Recipe, seed: int, steps: int, window: int, rate: float, draws: int
) -> dict[str, Any]:
    """One run of a recipe; its work counts in runs of the recipe's steps."""
    meta = MetaConfig("adam", rate, mode="online", window=window)
    result = tune(
        problem(data, recipe),
        [SampleWeight()],
        training(steps, recipe),
        Stored(),
        meta,
        seed=seed,
    )
    assert result.state is not None
    runs = result.state.runs * steps / recipe.steps
    return figures_of(data, result.best["sample_weight"], runs, draws, recipe)


def restarts(seed: int, iterations: int) -> dict[str, Any]:
    """Restarts with the shortcut over the last tenth, as docs/how-to/wrong-labels.md has them."""
    data = digits(seed)
    meta = MetaConfig("adam", 0.3, iterations, confirmation=0.0)
    method = Shortcut(horizon=STEPS // 10)
    result = tune(problem(data), [SampleWeight()], training(), method, meta, seed=seed)
    assert result.state is not None
    return figures_of(data, result.best["sample_weight"], result.state.runs)


def uniform(seed: int) -> dict[str, Any]:
    return figures_of(digits(seed), torch.full((1000,), 40.0), 0.0)
