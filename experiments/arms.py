"""The arms that an experiment compares, each a row of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.reporting import mean_and_interval, number, percent, table
from experiments.results import Result, Results
from experiments.tasks import Measured, Spec, Task

TRAINING = "training"
"""Name of the timed arm that is a plain training run."""


@dataclass(frozen=True)
class Arm:
    """The runs of an arm in a case.

    Attributes:
        before: number of training runs spent before it began, such as those of its search.
    """

    results: Results
    case: str
    name: str
    before: int = 0

    @property
    def runs(self) -> list[Result]:
        return self.results.of(self.case, self.name)

    @property
    def failures(self) -> int:
        """The number of runs without any result."""
        found = [run for run in self.results if (run.case, run.arm) == (self.case, self.name)]
        return sum(bool(run.error) and not run.validation_loss for run in found)

    @property
    def training_runs(self) -> float:
        return self.before + float(np.mean([run.cost for run in self.runs]))

    @property
    def cpu_seconds(self) -> float | None:
        """CPU seconds of all its meta-iterations or trials, from those of a single one."""
        plain = timing(self.results, self.case, TRAINING)
        own = timing(self.results, self.case, self.name)
        if plain is None or not self.runs:
            return None
        if own is None or "probed" in own.figures:
            return self.training_runs * plain.seconds["total"]
        count = float(np.mean([len(run.validation_loss) for run in self.runs]))
        return self.before * plain.seconds["total"] + count * own.seconds["total"]

    @property
    def mib(self) -> float | None:
        """MiB by which a meta-iteration grows the process; for a trial, a training run."""
        is_job = any(run.methods for run in self.runs)
        own = timing(self.results, self.case, self.name if is_job else TRAINING)
        return None if own is None else own.figures["peak_growth_bytes"] / 2**20


def timed(
    case: str, arms: Mapping[str, Spec], training: Spec, code: Path | None = None, repeats: int = 3
) -> list[Task]:
    """A single meta-iteration of each arm, and a training run: the source of all seconds."""
    plain = training | {"hypergradient": {"method": "one_step"}}
    return [
        Measured(case, once(name), seed, spec, code)
        for name, spec in {**arms, TRAINING: plain}.items()
        for seed in range(repeats)
    ]


def once(arm: str) -> str:
    return f"{arm}, once"


def timing(results: Results, case: str, arm: str) -> Result | None:
    """The fastest of the repeats, because other processes only add to the time."""
    runs = results.of(case, once(arm))
    return min(runs, key=lambda run: run.seconds["total"], default=None)


Column = Callable[[Arm], str]


def seeds(arm: Arm) -> str:
    """The number of runs, with those that ended early and those that failed."""
    early = sum(bool(run.error) for run in arm.runs)
    counts = {"ended early": early, "failed": arm.failures}
    return ", ".join([f"{len(arm.runs)}", *(f"{n} {what}" for what, n in counts.items() if n)])


def validation_loss(arm: Arm) -> str:
    return number([run.validation_loss[run.best] for run in arm.runs])


def test_error(arm: Arm) -> str:
    return percent([run.at_best("test_error") for run in arm.runs])


def differences(results: Results, case: str, arm: str, to: str, metric: str) -> list[float]:
    """The metric of an arm minus that of another, for every seed that both have run."""
    pairs = [(run, results.get(case, to, run.seed)) for run in results.of(case, arm)]
    return [
        run.at_best(metric) - other.at_best(metric)
        for run, other in pairs
        if other is not None and other.validation_loss
    ]


def difference(arm: Arm, to: str) -> str:
    """The test error minus that of the arm `to`, in points: the mean and its interval."""
    found = differences(arm.results, arm.case, arm.name, to, "test_error")
    if not found or arm.name == to:
        return "–"
    mean, half = mean_and_interval([100.0 * each for each in found])
    return f"{mean:+.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")


def training_runs(arm: Arm) -> str:
    return f"{arm.training_runs:.0f}" if arm.runs else "–"


def cpu_seconds(arm: Arm) -> str:
    seconds = arm.cpu_seconds
    return "–" if seconds is None else f"{seconds:.3g}"


def mib(arm: Arm) -> str:
    return "–" if arm.mib is None else f"{arm.mib:.0f}"


SPENT: Mapping[str, Column] = {
    "training runs": training_runs,
    "CPU seconds": cpu_seconds,
    "MiB": mib,
}
LOSS: Mapping[str, Column] = {"validation loss": validation_loss}
ERROR: Mapping[str, Column] = {
    "**test error**": test_error,
    "difference to drmad, points": lambda arm: difference(arm, "drmad"),
}


def arms_table(
    results: Results,
    case: str,
    labels: Mapping[str, str],
    columns: Mapping[str, Column],
    before: Mapping[str, int] | None = None,
) -> str:
    """Rows in the order of `labels`; arms that have not been run are left out."""
    before = before or {}
    arms = [Arm(results, case, name, before.get(name, 0)) for name in labels]
    rows = []
    for arm in arms:
        if arm.runs:
            rows.append([labels[arm.name], seeds(arm), *(show(arm) for show in columns.values())])
        elif arm.failures:
            rows.append([labels[arm.name], f"{arm.failures} failed", *("–" for _ in columns)])
    return table(["", "seeds", *columns], rows)
