"""The table of the project's README, made from the results of the experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from experiments.arms import Arm, cpu_seconds, differences, mib
from experiments.mnist_l2.experiment import FIRST_TRIALS
from experiments.reporting import mean_and_interval, number, percent, table
from experiments.results import Results


@dataclass(frozen=True)
class Row:
    """A task, and the arms of its experiment that fill the columns.

    Attributes:
        searches: the table shows the one with the lowest mean validation loss.
        before: training runs that a search spent before `drmad`.
    """

    experiment: str
    task: str
    case: str
    untuned: str
    searches: Sequence[str]
    drmad: str
    exact: str = "exact"
    before: int = 0
    metric: str = "test_error"


ROWS = (
    Row(
        "wrong_labels",
        "digits, 40 % of the labels drawn at random: 1,000 weights",
        "40 %",
        "all",
        ("tpe l2", "tpe l2 per layer", "random l2"),
        "drmad",
    ),
    Row(
        "mnist_l2",
        "MNIST, 5,000 examples: 934 penalties",
        "mnist",
        "usual",
        ("tpe l2", "tpe l2 per layer", "random l2"),
        "search, then auto",
        before=FIRST_TRIALS,
    ),
    Row(
        "schedules",
        "digits in 100 steps: 1,600 rates and momenta",
        "digits",
        "untuned",
        ("tpe", "tpe per layer", "random"),
        "drmad",
    ),
    Row(
        "initial_scales",
        "digits, a deep net: 12 scales",
        "digits",
        "untuned",
        ("tpe", "random"),
        "drmad",
    ),
    Row("distillation", "MNIST from ten images: 7,840 pixels", "mnist", "means", (), "drmad"),
    Row(
        "weight_sharing",
        "five tasks: two 5 × 5 matrices (test loss)",
        "rotated digits",
        "apart",
        ("tpe", "tpe rate", "random"),
        "drmad",
        metric="test_loss",
    ),
    Row(
        "conv_net",
        "rare classes, a convolutional net: 49 penalties and weights",
        "long tail",
        "plain",
        ("tpe l2", "tpe l2 per layer", "tpe weights", "random weights"),
        "drmad",
    ),
)


def block(root: Path) -> str:
    """The table in Markdown, with a row for each experiment that has results."""
    rows, missing = [], []
    for row in ROWS:
        results = Results(root / row.experiment)
        page = f"experiments/{row.experiment}/README.md"
        link = f"[{row.task}]({page})"
        if not results.of(row.case, row.drmad):
            missing.append(link)
            continue
        shown = partial(percent, seeds=True) if row.metric == "test_error" else number
        search = best_search(results, row)
        arms = {"untuned": row.untuned, "search": search, "drmad": row.drmad, "exact": row.exact}
        found = [
            shown(results.best(row.case, arm, row.metric)) if arm else "–" for arm in arms.values()
        ]
        spent = [seconds_and_mib(results, row, row.drmad), seconds_and_mib(results, row, row.exact)]
        cells = [*found, gain(results, row, search or row.untuned), *spent]
        rows.append([link, *(cell if cell == "–" else f"[{cell}]({page})" for cell in cells)])
    head = ["test error of", "untuned", "best search", "drmad", "exact", "gain over search"]
    text = table([*head, "drmad: CPU s, MiB", "exact: CPU s, MiB"], rows)
    return text + (f"\nNot complete yet: {', '.join(missing)}.\n" if missing else "")


def best_search(results: Results, row: Row) -> str | None:
    """The search that its user would choose: the one with the lowest validation loss."""
    there = [arm for arm in row.searches if results.of(row.case, arm)]

    def loss(arm: str) -> float:
        return float(np.mean([run.validation_loss[run.best] for run in results.of(row.case, arm)]))

    return min(there, key=loss, default=None)


def gain(results: Results, row: Row, other: str) -> str:
    """The gain of drmad over the other arm, paired by seed, and whether it is significant."""
    gained = differences(results, row.case, other, row.drmad, row.metric)
    if not gained:
        return "–"
    if row.metric == "test_error":
        gained = [100.0 * each for each in gained]
    mean, half = mean_and_interval(gained)
    shown = f"{mean:.2g}" if np.isnan(half) else f"{mean:.2g} ± {half:.2g}"
    shown += " points" if row.metric == "test_error" else ""
    if np.isnan(half):
        return f"{shown} (one seed)" if mean > 0.0 else f"**loses**: {shown} (one seed)"
    if mean < -half:
        return f"**loses**: {shown}"
    return shown if mean > half else f"not significant: {shown}"


def seconds_and_mib(results: Results, row: Row, name: str) -> str:
    arm = Arm(results, row.case, name, row.before if name == row.drmad else 0)
    shown = f"{cpu_seconds(arm)}, {mib(arm)}"
    return "–" if "–" in shown else shown
