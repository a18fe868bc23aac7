"""A training set learned from nothing: ten images, all their pixels tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.arms import SPENT, Arm, timed
from experiments.opponents import data_roots
from experiments.reporting import axes, percent, save, table
from experiments.results import Results
from experiments.tasks import Search, Spec, Task, Tuned, changed, read_spec

FOLDER = Path(__file__).parent
CODE = FOLDER / "code"
CASE = "mnist"
CHOICES = 30
"""Random draws of ten real images, of which the one with the lowest validation loss counts."""
ARMS = {
    "real": "ten real images, one per class, drawn at random",
    "best real": f"the best of {CHOICES} such draws",
    "means": "the mean image of each class, over 2,000 images",
    "drmad": "**drmad**, ten images from noise",
    "exact": "exact (`stored`), ten images from noise",
}


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    def timings(_: Results) -> Sequence[Task]:
        spec = stated(0, quick)
        arms = {"drmad": spec, "exact": changed(spec, hypergradient={"method": "stored"})}
        plain = changed(spec, hyperparameters=[{"kind": "l2", "per": "model"}])
        return timed(CASE, arms, plain, CODE, 1 if quick else 3)

    return [lambda _: [task for seed in range(seeds) for task in tasks(seed, quick)], timings]


def stated(seed: int, quick: bool) -> Spec:
    spec = read_spec(FOLDER / "job.yaml")
    spec["problem"]["options"] |= {"roots": [str(root) for root in data_roots()]}
    spec["problem"]["options"]["data"] |= {"seed": seed}
    return changed(spec, meta={"iterations": 30}) if quick else spec


def tasks(seed: int, quick: bool) -> list[Task]:
    spec = stated(seed, quick)
    exact = changed(spec, hypergradient={"method": "stored"})
    tasks: list[Task] = [
        Tuned(CASE, "drmad", seed, spec, CODE, keep=("training_data",)),
        Tuned(CASE, "exact", seed, exact, CODE, keep=("training_data",)),
        fixed(spec, "means", seed, "means"),
    ]
    choices = 5 if quick else CHOICES
    return tasks + [
        fixed(spec, f"real {draw}", seed, "real", 100 * seed + draw) for draw in range(choices)
    ]


def fixed(spec: Spec, arm: str, seed: int, begin: str, draw: int = 0) -> Search:
    changes = {"options": {"begin": begin, "draw": draw}}
    plain = changed(spec, problem=changes, hyperparameters=[{"kind": "l2", "per": "model"}])
    return Search(CASE, arm, seed, plain, CODE, trials=1, space={"l2": (-30.0, -30.0)})


def errors(results: Results, arm: str) -> list[float]:
    if "real" not in arm:
        return results.best(CASE, arm)
    found = []
    for seed in range(5):
        runs = [results.get(CASE, f"real {draw}", seed) for draw in range(CHOICES)]
        there = [run for run in runs if run is not None]
        if there and arm == "best real":
            found.append(min(there, key=lambda r: r.validation_loss[0]).metrics["test_error"][0])
        elif there:
            found.append(sum(run.metrics["test_error"][0] for run in there) / len(there))
    return found


def report(results: Results) -> str:
    rows = []
    for arm, label in ARMS.items():
        found, own = errors(results, arm), Arm(results, CASE, arm)
        if found:
            spent = [show(own) for show in SPENT.values()]
            if not own.runs:  # real images stand under a name for each choice
                spent = [str(CHOICES if "best" in arm else 1), "–", "–"]
            rows.append([label, str(len(found)), percent(found), *spent])
    return table(["training set", "seeds", "**test error**", *SPENT], rows)


def draw(results: Results, folder: Path) -> None:
    arms = [arm for arm in ("drmad", "exact") if results.arrays(CASE, arm, 0) is not None]
    if not arms:
        return
    figure, panels = axes(10, len(arms), size=(0.8, 0.85))
    for row, arm in zip(panels, arms, strict=True):
        kept = results.arrays(CASE, arm, 0)
        assert kept is not None
        for label, axis in enumerate(row):
            image = kept["training_data"][label].astype(float).reshape(28, 28)
            axis.imshow(image, cmap="RdBu_r", vmin=-abs(image).max(), vmax=abs(image).max())
            axis.set_title(label, fontsize=8)
            axis.axis("off")
    save(figure, folder / "images.png")
