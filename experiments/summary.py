"""The table of the project's README, from what the experiments left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from experiments.reporting import number, percent, table
from experiments.results import Result, Results


@dataclass(frozen=True)
class Row:
    """A task, and which arms of which experiment stand in its columns.

    Attributes:
        untuned: an arm, or "" for the first meta-iteration of `drmad`.
        searches: of which the one with the lowest mean validation loss is shown.
    """

    experiment: str
    task: str
    case: str
    untuned: str
    searches: Sequence[str]
    drmad: str
    exact: str = "exact"
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
    ),
    Row(
        "schedules",
        "digits in 100 steps: 1,600 rates and momenta",
        "digits",
        "",
        ("tpe", "tpe per layer", "random"),
        "drmad",
    ),
    Row(
        "initial_scales", "digits, a deep net: 12 scales", "digits", "", ("tpe", "random"), "drmad"
    ),
    Row("distillation", "MNIST from ten images: 7,840 pixels", "mnist", "means", (), "drmad"),
    Row(
        "weight_sharing",
        "five tasks: two 5 × 5 matrices (test loss)",
        "rotated digits",
        "apart",
        ("tpe", "random"),
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
    """Markdown; rows of experiments that have run."""
    rows, missing = [], []
    for row in ROWS:
        results = Results(root / row.experiment)
        runs = results.of(row.case, row.drmad)
        if not runs:
            missing.append(f"[{row.task}](experiments/{row.experiment}/README.md)")
            continue
        shown = partial(percent, seeds=True) if row.metric == "test_error" else number
        untuned = (
            results.best(row.case, row.untuned, row.metric)
            if row.untuned
            else [run.metrics[row.metric][0] for run in runs]
        )
        search = best_search(results, row)
        exact = results.of(row.case, row.exact)
        rows.append(
            [
                f"[{row.task}](experiments/{row.experiment}/README.md)",
                shown(untuned),
                shown(results.best(row.case, search, row.metric)) if search else "–",
                shown([run.at_best(row.metric) for run in runs]),
                shown([run.at_best(row.metric) for run in exact]),
                spent(runs) + " · " + spent(exact),
            ]
        )
    head = ["test error of", "untuned", "best of Optuna", "drmad", "exact"]
    text = table([*head, "seconds, MiB: drmad · exact"], rows)
    return text + (f"\nNot run to the end yet: {', '.join(missing)}.\n" if missing else "")


def best_search(results: Results, row: Row) -> str | None:
    """Judged by validation, as its user would."""
    there = [arm for arm in row.searches if results.of(row.case, arm)]

    def loss(arm: str) -> float:
        return float(np.mean([run.validation_loss[run.best] for run in results.of(row.case, arm)]))

    return min(there, key=loss, default=None)


def spent(runs: Sequence[Result]) -> str:
    """Median seconds of a job, and the peak of its worker's memory."""
    if not runs:
        return "–"
    seconds = float(np.median([run.seconds["total"] for run in runs]))
    mib = float(np.median([run.peak_memory_bytes for run in runs])) / 2**20
    return f"{seconds:.0f} s, {mib:.0f}"
