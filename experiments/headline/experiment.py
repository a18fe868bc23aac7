"""DrMAD against exact reverse mode in time and memory, from T = 100 to 10,000."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.reporting import axes, legend, save, table
from experiments.results import Results
from experiments.tasks import Measured, Task, changed, read_spec

FOLDER = Path(__file__).parent
HORIZONS = (100, 300, 1000, 3000, 10_000)
PLAIN = "plain training"
ARMS = {
    PLAIN: "plain training (and one backward step)",
    "paper_tenth": "DrMAD as published, T/10 backward steps",
    "paper": "DrMAD as published, T backward steps",
    "shortcut T/10": "drmad's shortcut over the last T/10 steps",
    "shortcut": "drmad's shortcut over all steps",
    "stored": "exact, with the weights of every step stored",
    "replay": "exact, by replay between √T snapshots",
    "reversible": "exact, by reversible steps in fixed point (the paper's baseline)",
    "torchopt": "exact, by torchopt 0.7.3, which unrolls the training",
}


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    horizons = HORIZONS[:3] if quick else HORIZONS
    return [lambda _: [task for steps in horizons for task in tasks(steps, quick)]]


def tasks(steps: int, quick: bool) -> list[Task]:
    methods = {
        PLAIN: {"method": "one_step"},
        "paper_tenth": {"method": "shortcut", "preset": "paper_tenth"},
        "paper": {"method": "shortcut", "preset": "paper"},
        "shortcut T/10": {"method": "shortcut", "horizon": steps // 10},
        "shortcut": {"method": "shortcut"},
        "stored": {"method": "stored"},
        "replay": {"method": "replay"},
        "reversible": {"method": "reversible"},
    }
    repeats = 3 if steps <= 1000 and not quick else 1
    spec = changed(read_spec(FOLDER / "job.yaml"), training={"steps": steps})
    return [
        Measured(f"T = {steps}", arm, seed, spec | {"hypergradient": method})
        for arm, method in methods.items()
        for seed in range(repeats)
    ]


def seconds(results: Results, steps: int, arm: str) -> float | None:
    """CPU seconds: the minimum of the repeats, because other processes only add to them."""
    runs = results.of(f"T = {steps}", arm)
    return min((run.seconds["total"] for run in runs), default=None)


def growth(results: Results, steps: int, arm: str) -> float | None:
    """Memory growth of the process, in MiB: the minimum of the repeats."""
    runs = results.of(f"T = {steps}", arm)
    return min((run.figures["peak_growth_bytes"] / 2**20 for run in runs), default=None)


def report(results: Results) -> str:
    rows = []
    for arm, label in ARMS.items():
        row = [label]
        for steps in HORIZONS:
            own, plain = seconds(results, steps, arm), seconds(results, steps, PLAIN)
            if own is None or plain is None:
                row.append(failure(results, steps, arm))
            else:
                row.append(f"{own:.3g} ({own / plain:.1f} ×)")
        rows.append(row)
    shown = table(
        ["CPU seconds (ratio to plain training)", *map("T = {:,}".format, HORIZONS)], rows
    )
    rows = []
    for arm, label in ARMS.items():
        row = [label]
        for steps in HORIZONS:
            mib = growth(results, steps, arm)
            row.append(failure(results, steps, arm) if mib is None else f"{mib:.0f}")
        rows.append(row)
    heads = ["memory growth of the process, MiB", *map("T = {:,}".format, HORIZONS)]
    return shown + "\n" + table(heads, rows) + "\n" + ratios(results)


def failure(results: Results, steps: int, arm: str) -> str:
    run = results.get(f"T = {steps}", arm, 0)
    if run is None or not run.error:
        return "–"
    return run.error if run.error.startswith("out of") else "failed"


def ratios(results: Results) -> str:
    """The ratios of the exact methods to DrMAD, which the paper reports as 45 and 100."""
    rows = []
    for opponent in ("reversible", "replay", "stored", "torchopt"):
        for ours in ("paper_tenth", "shortcut T/10", "shortcut"):
            row = [f"{opponent} / {ours}"]
            for steps in HORIZONS:
                times = [seconds(results, steps, arm) for arm in (opponent, ours)]
                sizes = [growth(results, steps, arm) for arm in (opponent, ours)]
                if None in times or None in sizes:
                    row.append("–")
                else:
                    (slow, fast), (large, small) = times, sizes
                    row.append(f"{slow / fast:.1f} / {large / max(small, 1.0):.1f}")  # type: ignore[operator,type-var]
            rows.append(row)
    return table(
        ["ratios of seconds / memory, exact to DrMAD", *map("T = {:,}".format, HORIZONS)], rows
    )


def draw(results: Results, folder: Path) -> None:
    figure, ((left, right),) = axes(2)
    for arm in ARMS:
        times = [(steps, seconds(results, steps, arm)) for steps in HORIZONS]
        sizes = [(steps, growth(results, steps, arm)) for steps in HORIZONS]
        for axis, points in ((left, times), (right, sizes)):
            there = [(steps, value) for steps, value in points if value is not None]
            if there:
                axis.loglog(*zip(*there, strict=True), marker="o", ms=3, label=arm)
    left.set(xlabel="T", ylabel="CPU seconds of one meta-iteration")
    right.set(xlabel="T", ylabel="memory growth of the process, MiB")
    legend(left, loc="lower right", fontsize=6)
    save(figure, folder / "cost.svg")
