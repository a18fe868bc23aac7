"""Which scores of training rows find the wrong labels, at which price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.arms import Arm
from experiments.cleaning import Cleaned
from experiments.reporting import axes, legend, mean_and_interval, percent, save, table
from experiments.results import Results
from experiments.tasks import Task
from experiments.wrong_labels.experiment import stated

CASES = ("40 %",)
ARMS = {
    "own loss": "loss of the net that all examples train",
    "filter": "loss of the net that the clean examples train",
    "filter, 6 rounds": "the same after six rounds of the filter",
    "cleanlab": "cleanlab, label quality",
    "reweighting": "one-step online reweighting, mean weight",
    "TracIn": "TracIn, ten checkpoints",
    "influence": "influence functions, Gauss-Newton",
    "last tenth": "drmad attribution, shortcut over the last tenth",
    "exact": "drmad attribution, exact (`replay`)",
    "exact, 4 draws": "the same, mean of four draws",
    "online": "drmad, tuned weights of one online run",
}
"""Names of the ways in row_scores."""


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    ways = ["filter", "exact"] if quick else list(ARMS)
    return [
        lambda _: [
            Cleaned(case, way, seed, stated(case, seed), way=way, lowest=True)
            for case in CASES
            for seed in range(seeds)
            for way in ways
        ]
    ]


def report(results: Results) -> str:
    shown = []
    for case in CASES:
        rows = []
        for name, label in ARMS.items():
            arm = Arm(results, case, name)
            if arm.runs:
                rows.append(
                    [
                        label,
                        f"{len(arm.runs)}",
                        f"{arm.training_runs - 1.0:.1f}",
                        percent(results.best(case, name, "label_noise_auc")),
                        percent(results.best(case, name, "label_noise_precision")),
                        percent(results.best(case, name)),
                    ]
                )
        head = ["scores", "seeds", "training runs", "AUC", "recall", "test error without them"]
        shown.append(table(head, rows))
    return "\n".join(shown)


def draw(results: Results, folder: Path) -> None:
    figure, panels = axes(size=(5.2, 3.2))
    axis = panels[0][0]
    for name in ARMS:
        arm = Arm(results, CASES[0], name)
        if arm.runs:
            found = results.best(CASES[0], name, "label_noise_precision")
            mean, half = mean_and_interval([100.0 * each for each in found])
            axis.errorbar(arm.training_runs - 1.0, mean, half, marker="o", label=name, capsize=2)
    axis.set(xscale="log", xlabel="training runs", ylabel="wrong labels found, %")
    legend(axis, fontsize=6, ncols=2)
    save(figure, folder / "found.svg")
