"""A convolutional net on classes of unequal frequency: penalties per channel, weights per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from experiments.arms import ERROR, LOSS, SPENT, arms_table, timed
from experiments.reporting import axes, legend, save
from experiments.results import Results
from experiments.tasks import Search, Spec, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CODE = FOLDER / "code"
CASE = "long tail"
PENALTY = (-14.0, 0.0)
WEIGHT = (-2.0, 4.0)
NONE = {"l2": (-30.0, -30.0)}
ARMS = {
    "plain": "untuned",
    "balanced": "rare examples repeated ten times (the usual remedy)",
    "tpe l2": "Optuna (TPE), one penalty",
    "tpe l2 per layer": "Optuna (TPE), a penalty per layer",
    "tpe weights": "Optuna (TPE), one penalty and ten class weights",
    "random weights": "random search, one penalty and ten class weights",
    "drmad": "**drmad**, penalties per channel and class weights",
    "drmad l2": "drmad, penalties per channel only",
    "auto": "drmad, `method: auto`",
    "exact": "exact (`stored`), penalties per channel and class weights",
}


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    def timings(_: Results) -> Sequence[Task]:
        spec = stated(0, quick)
        exact = changed(spec, hypergradient={"method": "stored"})
        return timed(CASE, {"drmad": spec, "exact": exact}, spec, CODE, 1 if quick else 3)

    return [lambda _: [task for seed in range(seeds) for task in tasks(seed, quick)], timings]


def stated(seed: int, quick: bool) -> Spec:
    spec = changed(read_spec(FOLDER / "job.yaml"), problem={"options": {"seed": seed}})
    return changed(spec, meta={"iterations": 10}) if quick else spec


def tasks(seed: int, quick: bool) -> list[Task]:
    spec = stated(seed, quick)
    trials = 2 * spec["meta"]["iterations"]  # a meta-iteration costs two training runs
    units, weights = spec["hyperparameters"]
    one = changed(spec, hyperparameters=[units | {"per": "model"}])
    layers = changed(spec, hyperparameters=[units | {"per": "layer"}])
    classes = changed(spec, hyperparameters=[units | {"per": "model"}, weights])
    balanced = changed(one, problem={"options": {"weighted": True}})
    eleven = {"l2": PENALTY, "loss_weight": WEIGHT}
    tasks: list[Task] = [
        Tuned(CASE, "drmad", seed, spec, CODE),
        Search(CASE, "plain", seed, one, CODE, 3, "fixed", NONE),
        Search(CASE, "balanced", seed, balanced, CODE, 3, "fixed", NONE),
        Search(CASE, "tpe weights", seed, classes, CODE, trials, "tpe", eleven),
        Search(CASE, "tpe l2", seed, one, CODE, trials, "tpe", {"l2": PENALTY}),
    ]
    if quick:
        return tasks
    exact = changed(spec, hypergradient={"method": "stored"})
    return [
        *tasks,
        Tuned(CASE, "exact", seed, exact, CODE),
        Tuned(CASE, "auto", seed, changed(spec, hypergradient={"method": "auto"}), CODE),
        Tuned(CASE, "drmad l2", seed, changed(spec, hyperparameters=[units]), CODE),
        Search(CASE, "tpe l2 per layer", seed, layers, CODE, trials, "tpe", {"l2": PENALTY}),
        Search(CASE, "random weights", seed, classes, CODE, trials, "random", eleven),
    ]


def report(results: Results) -> str:
    return arms_table(results, CASE, ARMS, {**LOSS, **ERROR, **SPENT})


def draw(results: Results, folder: Path) -> None:
    figure, ((axis,),) = axes()
    for arm in ("drmad", "exact", "tpe weights"):
        raw = np.array([run.raw["loss_weight"] for run in results.of(CASE, arm)])
        if len(raw):
            values = np.exp(raw - raw[:, :5].mean(axis=1, keepdims=True))
            axis.plot(range(10), values.mean(axis=0), "o-", label=arm)
    axis.set(xlabel="class (5 to 9 are rare)", ylabel="weight, relative to the common classes'")
    axis.set(yscale="log")
    legend(axis)
    save(figure, folder / "weights.svg")
