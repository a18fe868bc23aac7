"""A factor on the initial weights of each layer: 12 hyperparameters, few enough for search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from experiments.reporting import axes, legend, number, percent, save, table
from experiments.results import Results
from experiments.tasks import Search, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CASE = "digits"
SPACE = {"init_scale": (-2.0, 3.0)}
LAYERS = 6
ARMS = {
    "untuned": "untuned: torch's own scales",
    "random": "random search over the 12",
    "tpe": "Optuna (TPE) over the 12",
    "drmad": "**drmad**",
    "exact": "exact (`stored`)",
}


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    return [lambda _: [task for seed in range(seeds) for task in tasks(seed, quick)]]


def tasks(seed: int, quick: bool) -> list[Task]:
    spec = changed(read_spec(FOLDER / "job.yaml"), problem={"data": {"seed": seed}})
    if quick:
        spec = changed(spec, meta={"iterations": 10})
    trials = 3 * spec["meta"]["iterations"]
    return [
        Tuned(CASE, "drmad", seed, spec),
        Tuned(CASE, "exact", seed, changed(spec, hypergradient={"method": "stored"})),
        Search(CASE, "untuned", seed, spec, trials=3, space={"init_scale": (0.0, 0.0)}),
        Search(CASE, "tpe", seed, spec, None, trials, "tpe", SPACE),
        Search(CASE, "random", seed, spec, None, trials, "random", SPACE),
    ]


def report(results: Results) -> str:
    rows = []
    for arm, label in ARMS.items():
        runs = results.of(CASE, arm)
        if runs:
            rows.append(
                [
                    label,
                    str(len(runs)),
                    number([run.validation_loss[run.best] for run in runs]),
                    percent(results.best(CASE, arm)),
                    f"{runs[0].cost:.0f}",
                    number([run.seconds["total"] for run in runs], 2),
                ]
            )
    head = ["", "seeds", "validation loss", "**test error**", "training runs", "seconds"]
    return table(head, rows)


def draw(results: Results, folder: Path) -> None:
    figure, ((axis,),) = axes()
    for arm in ("drmad", "exact", "tpe"):
        raw = np.array([run.raw["init_scale"] for run in results.of(CASE, arm)])
        if len(raw):
            axis.plot(range(1, LAYERS + 1), np.exp(raw[:, ::2].mean(axis=0)), "o-", label=arm)
    axis.axhline(1.0, color="black", lw=1, ls=":")
    axis.set(xlabel="layer", ylabel="learned factor on the weights (mean of seeds)")
    legend(axis)
    save(figure, folder / "scales.svg")
