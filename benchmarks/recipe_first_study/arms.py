"""The arms: how each comes to a recipe and to weights of its rows, in about BUDGET runs."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import optuna
from torch import Tensor

from drmad_workers import MetaConfig, MetaState, Shortcut, tune
from recipe_first_study.table import GROUPS, Table, data
from recipe_first_study.text import Text
from recipe_first_study.work import Recipe, Work, training_of

BUDGET = 36
"""Plain training runs of an arm."""
RETRAININGS, FIRST = 10, 5000
"""Fresh draws that judge an arm, from draw FIRST on."""
HORIZON = 4
"""The shortcut goes back over the last fourth of the steps: 1.5 training runs."""


@dataclass(frozen=True)
class Arm:
    """
    Attributes:
        search: the share of the budget that TPE over the recipe takes; drmad takes the rest.
        tunes: the hyperparameters of drmad, by their name in the work; None for no drmad.
        newest: the share of the newest rows that train alone.
    """

    label: str
    search: float = 0.0
    tunes: str | None = None
    newest: float = 1.0


WORKS: Mapping[str, Work] = {"text": Text(), "table": Table()}
ARMS: Mapping[str, Mapping[str, Arm]] = {
    "text": {
        "untuned": Arm("the recipe as given"),
        "tpe": Arm("TPE over learning rate, weight decay and number of steps", search=1.0),
        "rows": Arm("drmad, one weight per text, at the recipe as given", tunes="rows"),
        "tpe, rows": Arm("TPE with half of the runs, then drmad", search=0.5, tunes="rows"),
    },
    "table": {
        "untuned": Arm("the recipe as given"),
        "newest": Arm("the newest half of the rows alone", newest=0.5),
        "tpe": Arm("TPE over learning rate, weight decay and decay with age", search=1.0),
        "rows": Arm("drmad, 80,000 weights of rows, at the recipe as given", tunes="rows"),
        "groups": Arm(f"drmad, {GROUPS} weights of ages, at the recipe as given", tunes="groups"),
        "tpe, rows": Arm("TPE with half of the runs, then 80,000 weights", 0.5, "rows"),
        "tpe, groups": Arm(f"TPE with half of the runs, then {GROUPS} weights", 0.5, "groups"),
    },
}


def result(job: str, name: str, seed: int) -> dict[str, Any]:
    """The recipe of an arm, what its job reported, and RETRAININGS in plain PyTorch."""
    work, arm = WORKS[job], ARMS[job][name]
    recipe = work.recipe
    values: dict[str, Tensor] = {}
    reported: dict[str, Any] = {}
    started = time.process_time()
    trials = round(arm.search * BUDGET)
    if trials:
        recipe = searched(work, seed, trials)
    if arm.tunes is not None:
        values, reported = tuned(work, arm.tunes, recipe, seed, BUDGET - trials)
    seconds = time.process_time() - started
    weights = work.row_weights(seed, recipe, values)
    if arm.newest < 1.0:
        weights = (data(seed)[0].ages < arm.newest).to(weights.dtype).clamp_min(1e-9)
    found = [work.trained(seed, recipe, weights, FIRST + draw) for draw in range(RETRAININGS)]
    return {
        "job": job,
        "arm": name,
        "seed": seed,
        "recipe": asdict(recipe),
        "reported": reported,
        "retrained": {figure: [each[figure] for each in found] for figure in work.figures},
        "cpu_seconds": seconds,
    }


def searched(work: Work, seed: int, trials: int) -> Recipe:
    """The recipe with the lowest validation loss of the trials, each of which has its own draw."""

    def recipe(trial: optuna.Trial) -> Recipe:
        found: dict[str, float] = {}
        for name, (low, high) in work.space.items():
            if name == "steps":
                found[name] = trial.suggest_int(name, int(low), int(high))
            else:
                found[name] = trial.suggest_float(name, low, high, log=True)
        return Recipe(**{**asdict(work.recipe), **found})

    def loss(trial: optuna.Trial) -> float:
        chosen = recipe(trial)
        weights = work.row_weights(seed, chosen, {})
        found = work.trained(seed, chosen, weights, trial.number)["validation_loss"]
        return found if math.isfinite(found) else math.inf

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(loss, n_trials=trials)
    return replace(work.recipe, **study.best_params)


def tuned(
    work: Work, tunes: str, recipe: Recipe, seed: int, runs: float
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The best weights of a job of so many training runs, and what it reports of them."""
    iterations = round(runs / 1.1 / (1.0 + 2.0 / HORIZON))
    start = work.start(seed, recipe, tunes)
    found = tune(
        work.problem(seed),
        [work.kinds[tunes]],
        training_of(work, recipe),
        Shortcut(horizon=recipe.steps // HORIZON),
        MetaConfig("adam", work.outer_rate, iterations),
        seed=seed,
        state=None if start is None else MetaState({"sample_weight": start}),
    )
    if found.confirmation is None:
        return found.best, {}
    figures = found.confirmation.best.figures
    return found.best, {
        name: {"mean": figures[name].mean, "interval": (figures[name].low, figures[name].high)}
        for name in work.figures
    }


def within(found: Mapping[str, Any], figure: str) -> bool | None:
    """Whether the mean of the retrainings lies in the interval that the job reported."""
    reported = found["reported"].get(figure)
    if reported is None or reported["interval"][0] is None:
        return None
    low, high = reported["interval"]
    return bool(low <= fmean(found["retrained"][figure]) <= high)
