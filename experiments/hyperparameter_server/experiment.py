"""The paper's hyperparameter server: 1, 2 and 5 replicas, in rounds or as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.arms import SPENT, Arm, arms_table, test_error, timed
from experiments.reporting import axes, curve, legend, percent, save
from experiments.results import Results
from experiments.tasks import Retrained, Spec, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CASE = "40 %"
KEPT = ("sample_weight",)
OVERLAP = 1.5
"""Mean number of replicas that hold an example, where shards overlap."""
LONGER = 5
ARMS = {
    "1 replica": "1 replica, all data",
    "1 replica, longer": f"1 replica, all data, {LONGER} times the meta-iterations",
    "2 replicas": "2 replicas, all data",
    "2 overlapping": "2 replicas, overlapping shards",
    "2 overlapping, async": "2 replicas, overlapping shards, async",
    "5 replicas": "5 replicas, all data",
    "5 replicas, async": "5 replicas, all data, async",
    "5 overlapping": "5 replicas, overlapping shards",
    "5 overlapping, async": "5 replicas, overlapping shards, async",
}
QUICK = ("1 replica", "2 overlapping", "2 overlapping, async")


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    arms = QUICK if quick else ARMS
    pairs = [(arm, seed) for seed in range(seeds) for arm in arms]
    return [
        lambda _: [Tuned(CASE, arm, seed, stated(arm, seed), keep=KEPT) for arm, seed in pairs],
        lambda results: [task for pair in pairs for task in retrained(*pair, results)],
        lambda _: timed(CASE, {QUICK[0]: plain(0)}, without_weights(0), repeats=1 if quick else 3),
    ]


def plain(seed: int) -> Spec:
    return changed(read_spec(FOLDER / "job.yaml"), problem={"data": {"seed": seed}})


def without_weights(seed: int) -> Spec:
    return changed(plain(seed), hyperparameters=[{"kind": "l2", "per": "model"}])


def stated(arm: str, seed: int) -> Spec:
    spec = plain(seed)
    count = int(arm.split()[0])
    replicas: Spec = {"count": count, "mode": "async" if "async" in arm else "sync"}
    if "overlapping" in arm:
        replicas |= {"data": "overlapping", "train_share": OVERLAP / count}
    if "longer" in arm:
        spec = changed(spec, meta={"iterations": LONGER * spec["meta"]["iterations"]})
    return changed(spec, replicas=replicas)


def retrained(arm: str, seed: int, results: Results) -> list[Task]:
    """Training on all examples with the tuned weights; a replica itself trains on its shard."""
    kept = results.arrays(CASE, arm, seed)
    if kept is None:
        return []
    values = {name: kept[name].astype(float).round(3).tolist() for name in KEPT}
    return [Retrained(CASE, again(arm), seed, plain(seed), trials=3, values=values)]


def again(arm: str) -> str:
    return f"{arm}, then trained"


def report(results: Results) -> str:
    columns = {
        "**test error**": test_error,
        "test error, trained on all examples": error_on_all,
        "precision": precision,
    }
    return arms_table(results, CASE, ARMS, {**columns, **SPENT})


def error_on_all(arm: Arm) -> str:
    return percent(arm.results.best(CASE, again(arm.name)))


def precision(arm: Arm) -> str:
    return percent([run.at_best("label_noise_precision") for run in arm.runs])


def draw(results: Results, folder: Path) -> None:
    figure, panels = axes(2)
    for axis, count in zip(panels[0], (2, 5), strict=True):
        for arm in ("1 replica", *(arm for arm in ARMS if arm.startswith(f"{count} "))):
            runs = results.of(CASE, arm)
            found = [[100 * e for e in run.metrics["label_noise_precision"]] for run in runs]
            curve(axis, found, arm)
        axis.set(xlabel="meta-iteration", ylabel="wrong labels among the lowest weights, %")
        legend(axis)
    save(figure, folder / "replicas.svg")
