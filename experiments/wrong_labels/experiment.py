"""Cleaning a data set: one weight per training example, against methods without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path

from experiments.arms import SPENT, Arm, difference, timed
from experiments.cleaning import Cleaned
from experiments.opponents import data_roots
from experiments.reporting import axes, curve, legend, mean_and_interval, percent, save, table
from experiments.results import Results
from experiments.tasks import Search, Spec, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
NOISE = {"20 %": 0.2, "40 %": 0.4, "60 %": 0.6}
MNIST = "MNIST, 50 %"
CASES = (*NOISE, MNIST)
ARMS = {
    "all": "all examples, each with weight one (untuned)",
    "random l2": "random search, one l2 penalty",
    "tpe l2": "Optuna (TPE), one l2 penalty",
    "tpe l2 per layer": "Optuna (TPE), an l2 penalty per layer",
    "validation alone": "the clean validation examples only",
    "drmad": "**drmad**, a weight per example",
    "auto": "drmad, `method: auto`",
    "exact": "exact hypergradient (`replay`), a weight per example",
    "truth": "the correctly labelled examples only (the ideal)",
}
CLEANING = {
    "filter": "clean-net filter, one round",
    "filter, 6 rounds": "clean-net filter, six rounds",
    "cleanlab": "cleanlab (confident learning, five folds)",
    "reweighting": "one-step online reweighting",
    "TracIn": "TracIn, harmful examples dropped",
    "influence": "influence functions, harmful examples dropped",
    "online": "drmad, one online run, weights below one half dropped",
    "tuned": "drmad, 30 restarts, weights below one half dropped",
    "online, then filter": "drmad: online run from the clean net, five rounds of the filter",
}
"""By the name of the way in row_scores; each without and with the clean examples in training."""
WITH_CLEAN = " + clean"
OFTEN = ("filter, 6 rounds", "cleanlab")
"""The ways of every case; the others are compared where TIMED has the case."""
OTHERS = {"auto": "auto", "exact": "replay"}
TIMED = ("40 %", MNIST)
"""The other cases take as long as the first."""
PENALTY = (-14.0, 0.0)
"""Range of the log penalties of a search."""


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    cases = ["40 %"] if quick else CASES
    timings = [task for case in cases if case in TIMED for task in timed_arms(case, quick)]
    return [
        lambda _: [task for case in cases for seed in range(seeds) for task in tasks(case, seed)],
        lambda _: timings,
    ]


def timed_arms(case: str, quick: bool) -> list[Task]:
    spec = stated(case, 0)
    arms = {arm: changed(spec, hypergradient={"method": method}) for arm, method in OTHERS.items()}
    plain = changed(spec, hyperparameters=[{"kind": "l2", "per": "model"}])
    return timed(case, {"drmad": spec, **arms}, plain, repeats=1 if quick else 3)


def stated(case: str, seed: int) -> Spec:
    spec = read_spec(FOLDER / ("job-mnist.yaml" if case == MNIST else "job.yaml"))
    noise = {} if case == MNIST else {"label_noise": NOISE[case]}
    return changed(spec, problem={"data": {**noise, "seed": seed}})


def tasks(case: str, seed: int) -> list[Task]:
    spec = stated(case, seed)
    steps, horizon = spec["training"]["steps"], spec["hypergradient"]["horizon"]
    trials = round(spec["meta"]["iterations"] * (1 + 2 * horizon / steps))

    def plain(arm: str, changes: Spec, code: Path | None = None) -> Search:
        return Search(
            case, arm, seed, changed(spec, **changes), code, trials=3, space={"l2": (-30.0, -30.0)}
        )

    nothing = [{"kind": "l2", "per": "model"}]
    per_layer = [{"kind": "l2", "per": "layer"}]
    options = {**spec["problem"], "roots": [str(root) for root in data_roots()]}
    alone = {"entrypoint": "validation_alone:build", "options": options}
    searches = [
        Search(
            case,
            arm,
            seed,
            changed(spec, hyperparameters=tuned),
            trials=trials,
            sampler="random" if "random" in arm else "tpe",
            space={"l2": PENALTY},
        )
        for arm, tuned in (
            ("tpe l2", nothing),
            ("tpe l2 per layer", per_layer),
            ("random l2", nothing),
        )
        if arm != "random l2" or case != MNIST
    ]
    exact = changed(spec, hypergradient={"method": OTHERS["exact"]})
    auto = changed(spec, hypergradient={"method": OTHERS["auto"]})
    if case == MNIST:  # its looks are then within 40 training runs
        auto = changed(auto, meta={"iterations": 26})
    return [
        Tuned(case, "drmad", seed, spec),
        *([] if case in ("20 %", "60 %") else [Tuned(case, "auto", seed, auto)]),
        Tuned(case, "exact", seed, exact),
        plain("all", {"hyperparameters": nothing}),
        plain("truth", {"hyperparameters": nothing, "problem": {"data": {"drop_noisy": True}}}),
        plain("validation alone", {"hyperparameters": nothing, "problem": alone}, FOLDER / "code"),
        *searches,
        *cleaning(case, seed, spec),
    ]


def cleaning(case: str, seed: int, spec: Spec) -> list[Task]:
    """The ways to find wrong labels that need no tuning, and drmad's, at the same final training.

    The final training is the job's, in plain PyTorch. The clean validation examples have no part in
    it, or all of them train with weight one.
    """
    found: list[Task] = []
    for way in CLEANING if case in TIMED else OFTEN:
        if way != "tuned":
            found.append(Cleaned(case, way, seed, spec, way=way))
        found.append(Cleaned(case, way + WITH_CLEAN, seed, spec, way=way, clean=True))
    return found


def report(results: Results) -> str:
    rows = []
    for arm, label in ARMS.items():
        errors = [percent(results.best(case, arm), seeds=True) for case in CASES]
        if any(error != "–" for error in errors):
            rows.append([label, *errors])
    head = "test error (number of seeds), by the share of labels drawn at random"
    shown = table([head, *CASES], rows)
    found, spent = [], []
    for arm in ("drmad", "auto", "exact"):
        precision = [results.best(case, arm, "label_noise_precision") for case in CASES]
        if any(precision):
            found.append([ARMS[arm], *map(percent, precision)])
    for name in ("drmad", "auto", "exact", "tpe l2"):
        arms = [Arm(results, case, name) for case in TIMED]
        spent.append([ARMS[name], *(show(arm) for arm in arms for show in SPENT.values())])
    differences = []
    for name, label in ARMS.items():
        if name != "drmad":
            arms = [Arm(results, case, name) for case in CASES]
            differences.append([label, *(difference(arm, "drmad") for arm in arms)])
    heads = [f"{column}, {case}" for case in TIMED for column in SPENT]
    opponents = []
    for suffix, title in (("", ""), (WITH_CLEAN, ", clean examples in training too")):
        for way, label in CLEANING.items():
            name = way + suffix
            errors = [percent(results.best(case, name), seeds=True) for case in CASES]
            if any(error != "–" for error in errors):
                runs = next(c for c in CASES if results.of(c, name))
                cost = Arm(results, runs, name).training_runs
                opponents.append([label + title, f"{cost:.1f}", *errors])
    return "\n".join(
        [
            shown,
            table(["difference to drmad in points, paired by seed", *CASES], differences),
            table(["share of wrong labels among the lowest weights", *CASES], found),
            table(["cost of a seed", *heads], spent),
            table(["test error of cleaning, then training", "training runs", *CASES], opponents),
        ]
    )


def draw(results: Results, folder: Path) -> None:
    cases = [case for case in CASES if results.of(case, "drmad")]
    figure, panels = axes(len(cases), size=(3.2, 2.8))
    for axis, case in zip(panels[0], cases, strict=True):
        for arm, label in (("drmad", "drmad"), ("exact", "exact"), ("tpe l2", "TPE, one penalty")):
            errors = [run.so_far("test_error") for run in results.of(case, arm)]
            curve(axis, [[100 * e for e in run] for run in errors], label)
        for arm, style in (("all", ":"), ("validation alone", "-."), ("truth", "--")):
            level = 100 * mean_and_interval(results.best(case, arm) or [nan])[0]
            axis.axhline(level, color="black", ls=style, lw=1, label=arm)
        top = 130 * max(results.best(case, "all"), default=0.2)
        axis.set(title=case, xlabel="meta-iteration or trial", ylim=(0, top))
    panels[0][0].set(ylabel="test error of the best so far, %")
    legend(panels[0][-1])
    save(figure, folder / "test-error.svg")
