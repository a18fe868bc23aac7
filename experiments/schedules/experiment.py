"""Learning rates and momenta for every step of every layer, T = 100, as in the 2015 paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from pathlib import Path

import numpy as np
from experiments.arms import ERROR, LOSS, SPENT, arms_table, timed
from experiments.reporting import axes, curve, legend, save
from experiments.results import Results
from experiments.schedules.training import training_losses
from experiments.tasks import Search, Spec, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CASE = "digits"
RATES = {"learning_rate": (-5.0, 1.0), "momentum": (-4.0, 3.0)}
"""Ranges of the raw values of a search: rates from 0.007 to 2.7, momenta from 0.02 to 0.95."""
UNTUNED = {"learning_rate": (log(0.3), log(0.3)), "momentum": (0.0, 0.0)}
KEPT = ("learning_rate", "momentum")
ARMS = {
    "untuned": "untuned, rate 0.3 and momentum 0.5",
    "random": "random search, one rate and one momentum",
    "tpe": "Optuna (TPE), one rate and one momentum",
    "tpe per layer": "Optuna (TPE), a rate and a momentum per layer",
    "drmad": "**drmad**, per step and layer",
    "auto": "drmad, `method: auto`",
    "exact": "exact (`stored`), per step and layer",
    "search, then drmad": "**TPE for a third of the budget, then drmad**, per step and layer",
}


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    return [
        lambda results: [task for seed in range(seeds) for task in begin(seed, quick)],
        lambda results: [task for seed in range(seeds) for task in go_on(seed, quick, results)],
        lambda _: timings(quick),
    ]


def timings(quick: bool) -> list[Task]:
    spec = stated(0, quick)
    arms = {
        "drmad": spec,
        "exact": changed(spec, hypergradient={"method": "stored"}),
        "search, then drmad": spec,
    }
    plain = changed(spec, hyperparameters=[{"kind": "l2", "per": "model"}])
    return timed(CASE, arms, plain, repeats=1 if quick else 3)


def stated(seed: int, quick: bool) -> Spec:
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
        Tuned(CASE, "auto", seed, changed(spec, hypergradient={"method": "auto"}), keep=KEPT),
        Search(CASE, "untuned", seed, global_, None, 3, "fixed", UNTUNED),
        Search(CASE, "tpe", seed, global_, None, count, "tpe", RATES),
        Search(CASE, "tpe per layer", seed, per_layer, None, count, "tpe", RATES),
        Search(CASE, "random", seed, global_, None, count, "random", RATES),
    ]


def go_on(seed: int, quick: bool, results: Results) -> list[Task]:
    searched = results.get(CASE, "tpe", seed)
    if searched is None:
        return []
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
    return [Tuned(CASE, "search, then drmad", seed, spec, keep=KEPT)]


def report(results: Results) -> str:
    before = {"search, then drmad": trials(False) // 3}
    return arms_table(results, CASE, ARMS, {**LOSS, **ERROR, **SPENT}, before)


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
            training_losses(stated(run.seed, False), run, results) for run in results.of(CASE, arm)
        ]
        curve(right, curves, arm)
    right.set(xlabel="step", ylabel="training loss, 8 steps' mean", yscale="log")
    legend(right)
    save(figure, folder / "schedules.svg")
