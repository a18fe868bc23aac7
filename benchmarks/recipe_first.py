"""A text classifier with wrong labels: do reported figures hold, and is tuning better?

    python benchmarks/recipe_first.py --json benchmarks/recipe_first.jsonl [--seeds 5]
    python benchmarks/recipe_first.py --json benchmarks/recipe_first.jsonl --tables

600 invented texts of ten words, of which a fifth have the wrong label, train a BERT of two layers
(32 wide, new weights) by AdamW with warm-up and clipping; 200 clean texts validate, 1,000 test.
Four arms get about as many training runs: none; TPE over learning rate, weight decay and number of
steps; drmad over one weight per text at the recipe as given; TPE with half of the runs, and drmad
at its best recipe with the rest. Each arm's hyperparameters are then retrained RETRAININGS times,
in draws that had no part in the choice.
"""

import argparse
import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import optuna
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from drmad_workers import (
    LinearSchedule,
    MetaConfig,
    Problem,
    SampleWeight,
    Shortcut,
    TrainingConfig,
    TrainingDiverged,
    Tuner,
    tune,
)
from drmad_workers.integrations import transformers

POLAR, FILLERS, WORDS = 60, 80, 10
"""The words that speak for each class, the other words, and the words of a text."""
WRONG = 0.2
BUDGET = 36
"""Plain training runs of an arm."""
RETRAININGS, FIRST = 10, 5000
"""Fresh draws that judge an arm, from draw FIRST on."""
SPACE = {"learning_rate": (3e-4, 1e-2), "weight_decay": (1e-3, 1.0), "steps": (40, 300)}
HORIZON = 4
"""The shortcut goes back over the last fourth of the steps: 1.5 training runs."""
ARMS = {
    "untuned": "the recipe as given",
    "tpe": "TPE over three numbers of the recipe",
    "drmad": "drmad, one weight per text, at the recipe as given",
    "searched": "TPE with half of the runs, then drmad",
}


@dataclass(frozen=True)
class Recipe:
    learning_rate: float = 0.003
    weight_decay: float = 0.01
    steps: int = 200

    def training(self) -> TrainingConfig:
        return TrainingConfig(
            "adamw",
            self.steps,
            20,
            self.learning_rate,
            weight_decay=self.weight_decay,
            clip_norm=1.0,
            schedule=LinearSchedule(warmup=self.steps // 10),
        )


def texts(count: int, seed: int, wrong: float = 0.0) -> list[dict[str, Any]]:
    """Texts as tokens: polar words speak for their class in 85 of 100 cases."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.randrange(2)
        tokens = [1]
        for _ in range(WORDS):
            if draw.random() < 0.45:
                side = label if draw.random() < 0.85 else 1 - label
                tokens.append(2 + side * POLAR + draw.randrange(POLAR))
            else:
                tokens.append(2 + 2 * POLAR + draw.randrange(FILLERS))
        given = 1 - label if draw.random() < wrong else label
        rows.append({"input_ids": tokens, "label": given})
    return rows


def bert() -> nn.Module:
    model: nn.Module = BertForSequenceClassification(
        BertConfig(
            vocab_size=2 + 2 * POLAR + FILLERS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
            num_labels=2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    return model


def draw_weights(model: nn.Module) -> None:
    """New weights for every draw, as BERT draws them."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


def problem_of(seed: int) -> Problem:
    torch.manual_seed(0)
    return transformers.problem(
        bert(),
        texts(600, 100 + seed, WRONG),
        texts(200, 200 + seed),
        texts(1000, 300 + seed),
        initialize=draw_weights,
    )


def tuner_of(problem: Problem, recipe: Recipe, seed: int) -> Tuner:
    kinds = [SampleWeight(normalised=True)]
    return Tuner(problem, kinds, recipe.training(), Shortcut(), seed=seed)


def searched(problem: Problem, seed: int, trials: int) -> Recipe:
    """The recipe with the lowest validation loss of the trials, each of which has its own draw."""

    def recipe(trial: optuna.Trial) -> Recipe:
        return Recipe(
            trial.suggest_float("learning_rate", *SPACE["learning_rate"], log=True),
            trial.suggest_float("weight_decay", *SPACE["weight_decay"], log=True),
            trial.suggest_int("steps", *(int(bound) for bound in SPACE["steps"])),
        )

    def loss(trial: optuna.Trial) -> float:
        tuner = tuner_of(problem, recipe(trial), seed)
        try:
            return tuner.retrain(tuner.initial_values(), trial.number)[0]["validation_loss"]
        except TrainingDiverged:
            return math.inf

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(loss, n_trials=trials)
    return Recipe(**study.best_params)


def tuned(
    problem: Problem, recipe: Recipe, seed: int, runs: float
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The best weights of a job of so many training runs, and what it reports of them."""
    iterations = round(runs / 1.1 / (1.0 + 2.0 / HORIZON))
    result = tune(
        problem,
        [SampleWeight(normalised=True)],
        recipe.training(),
        Shortcut(horizon=recipe.steps // HORIZON),
        MetaConfig("adam", 0.3, iterations),
        seed=seed,
    )
    confirmation = result.confirmation
    if confirmation is None:
        return result.best, {}
    best = confirmation.best
    return result.best, {
        name: {"mean": found.mean, "interval": (found.low, found.high)}
        for name, found in best.figures.items()
    }


def measured(problem: Problem, recipe: Recipe, seed: int, values: Any) -> dict[str, list[float]]:
    """Validation loss and test error of every retraining."""
    tuner = tuner_of(problem, recipe, seed)
    values = tuner.initial_values() if values is None else values
    found = [tuner.retrain(values, FIRST + draw)[0] for draw in range(RETRAININGS)]
    return {name: [each[name] for each in found] for name in ("validation_loss", "test_error")}


def arm(name: str, seed: int) -> dict[str, Any]:
    problem, recipe, values = problem_of(seed), Recipe(), None
    reported: dict[str, Any] = {}
    started = time.process_time()
    if name == "tpe":
        recipe = searched(problem, seed, BUDGET)
    if name == "searched":
        recipe = searched(problem, seed, BUDGET // 2)
    if name in ("drmad", "searched"):
        runs = BUDGET if name == "drmad" else BUDGET - BUDGET // 2
        values, reported = tuned(problem, recipe, seed, runs)
    seconds = time.process_time() - started
    return {
        "arm": name,
        "seed": seed,
        "recipe": recipe.__dict__,
        "reported": reported,
        "retrained": measured(problem, recipe, seed, values),
        "cpu_seconds": seconds,
    }


def report(results: list[dict[str, Any]]) -> str:
    lines = [
        "| | test error, retrained | validation loss, retrained | reported = retrained |",
        "|---|---|---|---|",
    ]
    for name, label in ARMS.items():
        own = [each for each in results if each["arm"] == name]
        if not own:
            continue
        row = [_over_seeds(own, figure, scale) for figure, scale in FIGURES.items()]
        within = [_within(each, figure) for each in own for figure in FIGURES]
        known = [each for each in within if each is not None]
        held = f"{sum(known)} of {len(known)}" if known else "–"
        lines.append(f"| {label} | {row[0]} | {row[1]} | {held} |")
    return "\n".join(lines)


FIGURES = {"test_error": 100.0, "validation_loss": 1.0}


def _over_seeds(results: list[dict[str, Any]], figure: str, scale: float) -> str:
    means = [scale * fmean(each["retrained"][figure]) for each in results]
    spread = f" ± {stdev(means):.3g}" if len(means) > 1 else ""
    each = ", ".join(f"{mean:.3g}" for mean in means)
    return f"{fmean(means):.3g}{spread} ({each})"


def _within(result: dict[str, Any], figure: str) -> bool | None:
    """Whether the mean of the retrainings lies in the interval that the job reported."""
    reported = result["reported"].get(figure)
    if reported is None or reported["interval"][0] is None:
        return None
    low, high = reported["interval"]
    return bool(low <= fmean(result["retrained"][figure]) <= high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="all figures, a line for each run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", action="store_true", help="print the table, measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = options.json.read_text().splitlines() if options.json.exists() else []
    results = [json.loads(line) for line in lines]
    known = {(each["arm"], each["seed"]) for each in results}
    for seed in range(options.seeds):
        for name in ARMS:
            if options.tables or (name, seed) in known:
                continue
            results.append(arm(name, seed))
            with options.json.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
            print(name, seed, round(results[-1]["cpu_seconds"]), "s", file=sys.stderr, flush=True)
    print(report(results))


if __name__ == "__main__":
    main()
