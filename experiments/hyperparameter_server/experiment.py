"""The paper's hyperparameter server: the hypergradients of 1, 2 and 5 replicas, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.reporting import axes, curve, legend, number, percent, save, table
from experiments.results import Results
from experiments.tasks import Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CASE = "40 %"
COUNTS = (1, 2, 5)


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    counts = COUNTS[:2] if quick else COUNTS
    return [lambda _: [tuned(seed, count) for seed in range(seeds) for count in counts]]


def tuned(seed: int, count: int) -> Task:
    spec = changed(read_spec(FOLDER / "job.yaml"), problem={"data": {"seed": seed}})
    return Tuned(CASE, arm_of(count), seed, changed(spec, replicas={"count": count}))


def arm_of(count: int) -> str:
    return f"{count} replica{'s' * (count > 1)}, all data"


def report(results: Results) -> str:
    rows = []
    for arm in map(arm_of, COUNTS):
        runs = results.of(CASE, arm)
        if runs:
            rows.append(
                [
                    arm,
                    str(len(runs)),
                    percent(results.best(CASE, arm)),
                    percent(results.best(CASE, arm, "label_noise_precision")),
                    f"{runs[0].cost:.0f}",
                    number([run.seconds["total"] for run in runs], 2),
                ]
            )
    head = ["", "seeds", "**test error**", "precision", "training runs", "seconds"]
    return table(head, rows)


def draw(results: Results, folder: Path) -> None:
    figure, ((axis,),) = axes()
    for arm in map(arm_of, COUNTS):
        runs = results.of(CASE, arm)
        curve(axis, [[100 * e for e in r.metrics["test_error"]] for r in runs], arm)
    axis.set(xlabel="meta-iteration", ylabel="test error, %")
    legend(axis)
    save(figure, folder / "replicas.svg")
