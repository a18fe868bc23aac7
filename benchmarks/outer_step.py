"""Compares the outer optimizer `auto` with Adam over a grid of rates, on small problems.

python benchmarks/outer_step.py [--seeds 10,11,12] [--json FILE] [--quick]

Every arm spends as many training runs as Adam takes for 20 meta-iterations, trials included. Its
figure is the mean validation loss of six fresh draws at its last hyperparameters. The rule was
chosen on seeds 0 and 1; the others judge it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn

from drmad_workers import (
    L2,
    HypergradientError,
    LearningRate,
    MetaConfig,
    Problem,
    SampleWeight,
    Stored,
    TrainingConfig,
    TrainingData,
    TrainingDiverged,
    Tuner,
    meta_update,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.meta.rollback import rollback_reason, rolled_back
from drmad_workers.meta.state import MetaState, initial_state
from drmad_workers.meta.update import bounds_of, trial_points
from drmad_workers.tuning import trial_losses

RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
ITERATIONS = 20
DRAWS = 6
FRESH = 2**40


def digits(seed: int, train: int, wrong: float = 0.0) -> Problem:
    draw = torch.Generator().manual_seed(seed)
    data = load_digits()
    order = torch.randperm(len(data.target), generator=draw)
    inputs = torch.tensor(data.data, dtype=torch.float32)[order] / 16
    targets = torch.tensor(data.target)[order]
    labels = targets[:train].clone()
    changed = torch.rand(train, generator=draw) < wrong
    labels[changed] = torch.randint(10, (int(changed.sum()),), generator=draw)
    model = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10))
    valid = slice(train, train + 300)
    return Problem(
        model, (inputs[:train], labels), (inputs[valid], targets[valid]), initialize="reset"
    )


def diabetes(seed: int) -> Problem:
    draw = torch.Generator().manual_seed(seed)
    data = load_diabetes(scaled=True)
    inputs = torch.tensor(data.data, dtype=torch.float32) / 0.0476
    targets = torch.tensor(data.target, dtype=torch.float32)[:, None]
    targets = (targets - targets.mean()) / targets.std()
    order = torch.randperm(len(inputs), generator=draw)
    inputs, targets = inputs[order], targets[order]
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 1))

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, wanted, reduction="none").mean(1)

    parts = (inputs[:120], targets[:120]), (inputs[120:], targets[120:])
    return Problem(model, *parts, loss=loss, initialize="reset")


Case = tuple[Callable[[int], Problem], list[Kind], TrainingConfig]
CASES: dict[str, Case] = {
    "penalties": (
        lambda seed: digits(seed, 100),
        [L2(per="unit")],
        TrainingConfig(steps=60, batch_size=25, learning_rate=0.2),
    ),
    "weights": (
        lambda seed: digits(seed, 300, wrong=0.4),
        [SampleWeight()],
        TrainingConfig(steps=80, batch_size=50, learning_rate=0.2),
    ),
    "schedule": (
        lambda seed: digits(seed, 300),
        [LearningRate(per="step")],
        TrainingConfig(steps=50, batch_size=25, learning_rate=0.02),
    ),
    "learned data": (
        lambda seed: digits(seed, 20),
        [TrainingData()],
        TrainingConfig(steps=50, batch_size=20, learning_rate=0.1),
    ),
    "table": (
        diabetes,
        [L2(per="unit"), LearningRate(per="layer")],
        TrainingConfig("adam", steps=60, batch_size=30, learning_rate=0.01),
    ),
}


def outcome(case: str, seed: int, meta: MetaConfig) -> dict[str, Any]:
    """An arm: its meta-iterations, with the rollbacks of a job, and fresh draws at its best."""
    build, kinds, training = CASES[case]
    tuner = Tuner(build(seed), kinds, training, Stored(), seed=seed)
    state = initial_state(tuner.hyperparameters)
    bounds = bounds_of(tuner.hyperparameters)
    runs, budget = 0.0, ITERATIONS * Stored().cost(training) + 1e-6
    kept: dict[int, tuple[MetaState, dict[str, Tensor]]] = {}
    log: list[list[float | None]] = []
    while runs + Stored().cost(training) <= budget and state.iteration < meta.iterations:
        evaluation, tried = None, []
        try:
            evaluation = tuner.evaluate(state.hyperparameters, state.iteration, draw=state.draw)
            tried = trial_losses(tuner, trial_points(state, bounds), state.draw)
        except (TrainingDiverged, HypergradientError):
            reason: str | None = "diverged"
        else:
            reason = rollback_reason(state, evaluation.validation_loss, meta)
        runs += Stored().cost(training) + len(tried)
        rate = float(state.optimizer.get("line/rate", torch.tensor(meta.learning_rate)))
        loss = None if evaluation is None else evaluation.validation_loss
        log.append([rate, loss, *(each if math.isfinite(each) else None for each in tried)])
        if reason is not None or evaluation is None:
            best = kept.get(-1 if state.best_iteration is None else state.best_iteration)
            if best is None or state.rollbacks >= meta.max_rollbacks:
                break
            state = rolled_back(state, *best, meta, bounds)
            continue
        kept[state.iteration] = state, evaluation.hypergradient
        state = meta_update(
            state,
            evaluation.validation_loss,
            evaluation.hypergradient,
            meta,
            bounds,
            cost=evaluation.cost + len(tried),
            trials=tried,
        )
    assert state.best_iteration is not None
    best_values = kept[state.best_iteration][0].hyperparameters
    losses = [tuner.retrain(best_values, FRESH + n)[0]["validation_loss"] for n in range(DRAWS)]
    return {"loss": fmean(losses), "iterations": state.iteration, "log": log}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="10,11,12")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--json", type=Path, help="results so far, to which new ones are added")
    parser.add_argument("--arms", default="")
    parser.add_argument("--quick", action="store_true", help="one case, one seed, two arms")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.cases, arguments.arms = "10", "penalties", "adam 0.3,auto"
    torch.set_num_threads(1)
    kept: Path | None = arguments.json
    lines = kept.read_text().splitlines() if kept is not None and kept.exists() else []
    done = {(line["case"], line["seed"], line["arm"]) for line in map(json.loads, lines)}
    arms = {f"adam {rate:g}": MetaConfig("adam", learning_rate=rate) for rate in RATES}
    arms["auto"] = MetaConfig("auto", iterations=17)
    wanted = arguments.arms.split(",") if arguments.arms else list(arms)
    for case in arguments.cases.split(","):
        for seed in map(int, arguments.seeds.split(",")):
            for arm in wanted:
                if (case, seed, arm) in done:
                    continue
                found = outcome(case, seed, arms[arm])
                line = {"case": case, "seed": seed, "arm": arm, **found}
                print(case, seed, arm, found["loss"], flush=True)
                if kept is not None:
                    with kept.open("a") as file:
                        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
