"""One L2 penalty per unit on MNIST: the paper's method, ours, the exact one, and search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from experiments.arms import LOSS, SPENT, Arm, arms_table, difference, test_error, timed
from experiments.reporting import axes, curve, legend, number, save
from experiments.results import Results
from experiments.tasks import Search, Spec, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CASE = "mnist"
START = -5.0
"""Initial log penalty of the gradient methods: a poor value, which leaves room to improve."""
BUDGET = 100
"""Number of training runs that every arm may spend."""
FIRST_TRIALS = 20
"""Number of trials of the global search after which the gradient continues."""
PENALTY = {"l2": (-14.0, 0.0)}
"""Range of the log penalties of a search."""
USUAL = {"l2": (-8.29, -8.29)}
"""A weight decay of 5e-4, which adds 2.5e-4 w² to the loss."""
POOR = {"l2": (START, START)}
NONE = {"l2": (-30.0, -30.0)}

KEPT = ("l2",)
ARMS = {
    "none": "no penalty",
    "poor": "e⁻⁵, the initial value of the gradient methods",
    "usual": "a weight decay of 5·10⁻⁴ (a usual value)",
    "random l2": "random search, one penalty",
    "tpe l2": "Optuna (TPE), one penalty",
    "tpe l2 per layer": "Optuna (TPE), a penalty per layer",
    "paper_tenth": "DrMAD as published, T/10 backward steps, from e⁻⁵",
    "paper": "DrMAD as published, T backward steps, from e⁻⁵",
    "auto": "**drmad**'s default (`auto`), from e⁻⁵",
    "exact": "exact (`stored`), from e⁻⁵",
    "search, then auto": f"**{FIRST_TRIALS} trials of TPE, then drmad**",
}
METHODS = {
    "paper_tenth": {"method": "shortcut", "preset": "paper_tenth"},
    "auto": {"method": "auto"},
    "exact": {"method": "stored"},
    "paper": {"method": "shortcut", "preset": "paper"},
}
ITERATIONS = {"paper_tenth": 83, "auto": 20, "exact": 33, "paper": 33, "search, then auto": 20}
"""Meta-iterations within the budget: of the published form over T/10 steps each counts 1.2, of
the exact and the published one over all steps 3, and `auto` probes as often as its rule says."""
QUICK = ("paper_tenth", "auto")


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    return [
        lambda results: [task for seed in range(seeds) for task in begin(seed, quick)],
        lambda results: [task for seed in range(seeds) for task in go_on(seed, quick, results)],
        lambda _: timings(quick),
    ]


def timings(quick: bool) -> list[Task]:
    arms = {arm: tuned(arm, 0, quick).spec for arm in (QUICK if quick else METHODS)}
    arms["search, then auto"] = arms["auto"]
    return timed(CASE, arms, stated(0, quick, "model"), repeats=1 if quick else 3)


def stated(seed: int, quick: bool, per: str = "unit", init: float = START) -> Spec:
    spec = changed(read_spec(FOLDER / "job.yaml"), problem={"data": {"seed": seed}})
    if quick:
        spec = changed(spec, training={"steps": 200}, meta={"iterations": 5})
    return changed(spec, hyperparameters=[{"kind": "l2", "per": per, "init": init}])


def tuned(arm: str, seed: int, quick: bool, init: float = START) -> Tuned:
    spec = stated(seed, quick, init=init)
    spec = changed(spec, hypergradient=METHODS.get(arm, METHODS["auto"]))
    if not quick:
        spec = changed(spec, meta={"iterations": ITERATIONS[arm]})
    return Tuned(CASE, arm, seed, spec, keep=KEPT)


def begin(seed: int, quick: bool) -> list[Task]:
    model, layers = stated(seed, quick, "model"), stated(seed, quick, "layer")
    trials = FIRST_TRIALS if quick else BUDGET
    tasks: list[Task] = [
        Search(CASE, "tpe l2", seed, model, None, trials, "tpe", PENALTY),
        Search(CASE, "none", seed, model, None, 3, "fixed", NONE),
        Search(CASE, "usual", seed, model, None, 3, "fixed", USUAL),
        Search(CASE, "poor", seed, model, None, 3, "fixed", POOR),
    ]
    tasks += [tuned(arm, seed, quick) for arm in (QUICK if quick else METHODS)]
    if quick:
        return tasks
    return [
        *tasks,
        Search(CASE, "tpe l2 per layer", seed, layers, None, trials, "tpe", PENALTY),
        Search(CASE, "random l2", seed, model, None, trials, "random", PENALTY),
    ]


def go_on(seed: int, quick: bool, results: Results) -> list[Task]:
    """Per unit from the best penalty of the first trials of the global search."""
    searched = results.get(CASE, "tpe l2", seed)
    if searched is None:
        return []
    best = int(np.argmin(searched.validation_loss[:FIRST_TRIALS]))
    init = round(searched.figures["tried"]["l2"][best][0], 3)
    return [tuned("search, then auto", seed, quick, init)]


def report(results: Results) -> str:
    columns = {
        **LOSS,
        "test loss": test_loss,
        "**test error**": test_error,
        "difference to the last row, points": lambda arm: difference(arm, "search, then auto"),
    }
    before = {"search, then auto": FIRST_TRIALS}
    return arms_table(results, CASE, ARMS, {**columns, **SPENT}, before)


def test_loss(arm: Arm) -> str:
    return number([run.at_best("test_loss") for run in arm.runs])


def draw(results: Results, folder: Path) -> None:
    figure, ((left, right),) = axes(2)
    for arm in ("paper_tenth", "paper", "auto", "exact", "search, then auto"):
        runs = results.of(CASE, arm)
        style = "--" if arm == "exact" else "-"
        curve(left, [[100 * e for e in r.metrics["test_error"]] for r in runs], arm, ls=style)
    left.set(xlabel="meta-iteration", ylabel="test error, %", ylim=(4, 11))
    legend(left)
    for arm in ("tpe l2", "tpe l2 per layer", "random l2", "auto", "search, then auto"):
        runs = results.of(CASE, arm)
        if runs:
            best = np.mean([np.minimum.accumulate(r.validation_loss) for r in runs], axis=0)
            start = FIRST_TRIALS if arm == "search, then auto" else 0
            each = np.mean([r.cost for r in runs]) / len(best)
            right.plot(start + each * np.arange(1, len(best) + 1), best, label=arm)
    right.set(xlabel="training runs spent", ylabel="lowest validation loss so far")
    legend(right)
    save(figure, folder / "curves.svg")
    draw_penalties(results, folder)


def draw_penalties(results: Results, folder: Path) -> None:
    """The first layer's penalties as an image: what lies at the border is penalised most."""
    kept = {arm: results.arrays(CASE, arm, 0) for arm in ARMS}
    units = 784 + 3 * 50  # not so of a data set in the place of MNIST
    shown = {arm: found["l2"] for arm, found in kept.items() if found and found["l2"].size == units}
    if not shown:
        return
    figure, panels = axes(len(shown), size=(2.2, 2.2))
    for axis, (arm, penalties) in zip(panels[0], shown.items(), strict=True):
        axis.imshow(penalties[:784].astype(float).reshape(28, 28), cmap="magma")
        axis.set_title(arm)
        axis.axis("off")
    save(figure, folder / "penalties.png")
