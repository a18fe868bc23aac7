"""How much related tasks should share, learned per layer: digits turned by five angles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from experiments.arms import LOSS, SPENT, Arm, arms_table, timed
from experiments.reporting import axes, number, save
from experiments.results import Results
from experiments.tasks import Search, Spec, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CODE = FOLDER / "code"
CASE = "rotated digits"
ANGLES = ("0°", "15°", "30°", "180°", "195°")
SHARE = {"share": (-0.5, 1.0)}
RATE = {"learning_rate": (-3.0, 2.0)}
"""Log rates: entries above one are larger weights, and larger steps."""
ARMS = {
    "apart": "five separate nets",
    "together": "one net for all five tasks",
    "random": "random search, a degree of sharing per layer",
    "tpe": "Optuna (TPE), a degree of sharing per layer",
    "tpe rate": "Optuna (TPE), a degree of sharing per layer, and the learning rate",
    "drmad": "**drmad**, a 5 × 5 matrix per layer",
    "auto": "drmad, `method: auto`",
    "exact": "exact (`stored`), a 5 × 5 matrix per layer",
}


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    def timings(_: Results) -> Sequence[Task]:
        spec = stated(0, quick)
        arms = {"drmad": spec, "exact": changed(spec, hypergradient={"method": "stored"})}
        return timed(CASE, arms, spec, CODE, 1 if quick else 3)

    return [lambda _: [task for seed in range(seeds) for task in tasks(seed, quick)], timings]


def stated(seed: int, quick: bool) -> Spec:
    spec = changed(read_spec(FOLDER / "job.yaml"), problem={"options": {"seed": seed}})
    return changed(spec, meta={"iterations": 10}) if quick else spec


def tasks(seed: int, quick: bool) -> list[Task]:
    spec = stated(seed, quick)
    trials = 3 * spec["meta"]["iterations"]  # a meta-iteration costs three training runs
    share = [{"kind": "tensor", "name": "share"}]
    one = changed(spec, problem={"options": {"one": True}}, hyperparameters=share)
    rate = {"kind": "learning_rate", "per": "model"}
    rated = changed(one, hyperparameters=[*share, rate])
    exact = changed(spec, hypergradient={"method": "stored"})
    return [
        Tuned(CASE, "drmad", seed, spec, CODE),
        Tuned(CASE, "exact", seed, exact, CODE),
        Tuned(CASE, "auto", seed, changed(spec, hypergradient={"method": "auto"}), CODE),
        Search(CASE, "apart", seed, one, CODE, 3, "fixed", {"share": (0.0, 0.0)}),
        Search(CASE, "together", seed, one, CODE, 3, "fixed", {"share": (1.0, 1.0)}),
        Search(CASE, "tpe", seed, one, CODE, trials, "tpe", SHARE),
        Search(CASE, "tpe rate", seed, rated, CODE, trials, "tpe", SHARE | RATE),
        Search(CASE, "random", seed, one, CODE, trials, "random", SHARE),
    ]


def report(results: Results) -> str:
    return arms_table(results, CASE, ARMS, {**LOSS, "**test loss**": test_loss, **SPENT})


def test_loss(arm: Arm) -> str:
    return number([run.at_best("test_loss") for run in arm.runs])


def draw(results: Results, folder: Path) -> None:
    """|A|, as a net and its negative do the same: with which sign they are mixed is chance."""
    runs = results.of(CASE, "drmad")
    if not runs:
        return
    figure, (panels,) = axes(2, size=(2.8, 2.4))
    for axis, name in zip(panels, ("first", "second"), strict=True):
        mean = np.mean([np.abs(run.raw[name]).reshape(5, 5) for run in runs], axis=0)
        shown = axis.imshow(mean, cmap="Blues", vmin=0, vmax=2)
        axis.set(title=f"{name} layer, |A|", xticks=range(5), yticks=range(5))
        axis.set_xticklabels(ANGLES, fontsize=7)
        axis.set_yticklabels(ANGLES, fontsize=7)
        figure.colorbar(shown, ax=axis, shrink=0.8)
    save(figure, folder / "sharing.svg")
