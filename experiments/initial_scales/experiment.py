"""A factor on the initial weights of each layer: 12 hyperparameters, few enough for search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from experiments.arms import ERROR, LOSS, SPENT, arms_table, timed
from experiments.reporting import axes, legend, save
from experiments.results import Results
from experiments.tasks import Search, Spec, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CASE = "digits"
SPACE = {"init_scale": (-2.0, 3.0)}
LAYERS = 6
ARMS = {
    "untuned": "untuned, torch's own scales",
    "random": "random search, 12 factors",
    "tpe": "Optuna (TPE), 12 factors",
    "drmad": "**drmad**",
    "auto": "drmad, `method: auto`",
    "exact": "exact (`stored`)",
}


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    def timings(_: Results) -> Sequence[Task]:
        spec = stated(0, quick)
        exact = changed(spec, hypergradient={"method": "stored"})
        plain = changed(spec, hyperparameters=[{"kind": "l2", "per": "model"}])
        return timed(CASE, {"drmad": spec, "exact": exact}, plain, repeats=1 if quick else 3)

    return [lambda _: [task for seed in range(seeds) for task in tasks(seed, quick)], timings]


def stated(seed: int, quick: bool) -> Spec:
    spec = changed(read_spec(FOLDER / "job.yaml"), problem={"data": {"seed": seed}})
    return changed(spec, meta={"iterations": 10}) if quick else spec


def tasks(seed: int, quick: bool) -> list[Task]:
    spec = stated(seed, quick)
    trials = 3 * spec["meta"]["iterations"]
    return [
        Tuned(CASE, "drmad", seed, spec),
        Tuned(CASE, "exact", seed, changed(spec, hypergradient={"method": "stored"})),
        Tuned(CASE, "auto", seed, changed(spec, hypergradient={"method": "auto"})),
        Search(CASE, "untuned", seed, spec, trials=3, space={"init_scale": (0.0, 0.0)}),
        Search(CASE, "tpe", seed, spec, None, trials, "tpe", SPACE),
        Search(CASE, "random", seed, spec, None, trials, "random", SPACE),
    ]


def report(results: Results) -> str:
    return arms_table(results, CASE, ARMS, {**LOSS, **ERROR, **SPENT})


def draw(results: Results, folder: Path) -> None:
    figure, ((axis,),) = axes()
    for arm in ("drmad", "exact", "tpe"):
        raw = np.array([run.raw["init_scale"] for run in results.of(CASE, arm)])
        if len(raw):
            axis.plot(range(1, LAYERS + 1), np.exp(raw[:, ::2].mean(axis=0)), "o-", label=arm)
    axis.axhline(1.0, color="black", lw=1, ls=":")
    axis.set(xlabel="layer", ylabel="learned factor (mean of seeds)")
    legend(axis)
    save(figure, folder / "scales.svg")
