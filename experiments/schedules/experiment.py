"""Learning rates and momenta for every step of every layer, T = 100, as in the 2015 paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from experiments.reporting import axes, curve, legend, number, percent, save, table
from experiments.results import Result, Results
from experiments.schedules.training import training_losses
from experiments.tasks import Search, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CASE = "digits"
RATES = {"learning_rate": (-5.0, 1.0), "momentum": (-4.0, 3.0)}
"""Raw values that a search may try: rates from 0.007 to 2.7, momenta from 0.02 to 0.95."""
KEPT = ("learning_rate", "momentum")
ARMS = {
    "untuned": "untuned: rate 0.3, momentum 0.5",
    "random": "random search, one rate and one momentum",
    "tpe": "Optuna (TPE), one rate and one momentum",
    "tpe per layer": "Optuna (TPE), a rate and a momentum per layer",
    "drmad": "**drmad**, per step and layer",
    "exact": "exact (`stored`), per step and layer",
    "search, then drmad": "**a third of TPE, then drmad** per step and layer",
}


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    return [
        lambda results: [task for seed in range(seeds) for task in begin(seed, quick)],
        lambda results: [go_on(seed, quick, results) for seed in range(seeds)],
    ]


def stated(seed: int, quick: bool) -> dict[str, object]:
    spec = changed(read_spec(FOLDER / "job.yaml"), problem={"data": {"seed": seed}})
    return changed(spec, meta={"iterations": 20}) if quick else spec


def trials(quick: bool) -> int:
    return 60 if quick else 90  # three training runs to a meta-iteration


def begin(seed: int, quick: bool) -> list[Task]:
    spec = stated(seed, quick)
    one = [{"kind": kind, "per": "model"} for kind in KEPT]
    layers = [{"kind": kind, "per": "layer"} for kind in KEPT]
    global_, per_layer = changed(spec, hyperparameters=one), changed(spec, hyperparameters=layers)
    count = trials(quick)
    return [
        Tuned(CASE, "drmad", seed, spec, keep=KEPT),
        Tuned(CASE, "exact", seed, changed(spec, hypergradient={"method": "stored"}), keep=KEPT),
        Search(CASE, "tpe", seed, global_, None, count, "tpe", RATES),
        Search(CASE, "tpe per layer", seed, per_layer, None, count, "tpe", RATES),
        Search(CASE, "random", seed, global_, None, count, "random", RATES),
    ]


def go_on(seed: int, quick: bool, results: Results) -> Task:
    searched = results.get(CASE, "tpe", seed)
    assert searched is not None
    count = trials(quick) // 3
    best = int(np.argmin(searched.validation_loss[:count]))
    spec = stated(seed, quick)
    starts = [
        {
            **hyperparameter,
            "init": round(searched.figures["tried"][hyperparameter["kind"]][best][0], 3),
        }
        for hyperparameter in read_spec(FOLDER / "job.yaml")["hyperparameters"]
    ]
    iterations = round((trials(quick) - count) / 3)
    spec = changed(spec, hyperparameters=starts, meta={"iterations": iterations})
    return Tuned(CASE, "search, then drmad", seed, spec, keep=KEPT)


def report(results: Results) -> str:
    rows = []
    for arm, label in ARMS.items():
        runs = results.of(CASE, "drmad" if arm == "untuned" else arm)
        if not runs:
            continue

        def shown(run: Result, arm: str = arm) -> int:
            return 0 if arm == "untuned" else run.best

        cost = {"untuned": 1.0, "search, then drmad": runs[0].cost + trials(False) // 3}
        rows.append(
            [
                label,
                str(len(runs)),
                number([run.validation_loss[shown(run)] for run in runs]),
                percent([run.metrics["test_error"][shown(run)] for run in runs]),
                f"{cost.get(arm, runs[0].cost):.0f}",
                number([run.seconds["total"] for run in runs], 2) if arm != "untuned" else "–",
            ]
        )
    head = ["", "seeds", "validation loss", "**test error**", "training runs", "seconds"]
    return table(head, rows)


def draw(results: Results, folder: Path) -> None:
    figure, ((left, middle, right),) = axes(3)
    for axis, name, label in ((left, "learning_rate", "rate"), (middle, "momentum", "momentum")):
        for layer in range(0, 8, 2):
            kept = [results.arrays(CASE, "drmad", run.seed) for run in results.of(CASE, "drmad")]
            raw = np.array([k[name].reshape(8, -1)[layer] for k in kept if k is not None], float)
            if len(raw):
                values = np.exp(raw) if name == "learning_rate" else 1.0 / (1.0 + np.exp(-raw))
                axis.plot(values.mean(axis=0), label=f"weights of layer {layer // 2 + 1}")
        axis.set(xlabel="step", ylabel=f"learned {label}")
    legend(left)
    for arm in ("untuned", "tpe", "drmad", "search, then drmad"):
        curves = [
            training_losses(stated(run.seed, False), run, results, arm)
            for run in results.of(CASE, "drmad" if arm == "untuned" else arm)
        ]
        curve(right, curves, arm)
    right.set(xlabel="step", ylabel="training loss, 8 steps' mean", yscale="log")
    legend(right)
    save(figure, folder / "schedules.svg")
