"""Four users' trainings as the templates of `drmad init` state them: untuned, tuned, searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.plain import Plain
from experiments.reporting import mean_and_interval, percent, table, with_block
from experiments.results import Result, Results
from experiments.tasks import Fresh, Search, Spec, Task, Tuned, changed, read_spec
from scipy import stats

from drmad_client.spec.text import job_file

FOLDER = Path(__file__).parent
PAGES = FOLDER.parents[1] / "docs" / "stories"
BUILD = Path("build") / "stories"
"""Where the templates are written, as `drmad init` does."""
LOGITS = (-4.0, 4.0)
"""Range in which a search draws the logit of a weight."""
RECIPE = {"learning_rate": (-7.5, -1.0), "weight_decay": (-12.0, -2.0)}
"""Ranges in which a search draws the logarithms of a learning rate and of a weight decay."""
RUNS = 5
"""Training runs that judge an arm; their weights and minibatches had no part in its choice."""
ARMS = {
    "untuned": "untuned",
    "random": "random search",
    "drmad": "**drmad**",
}


@dataclass(frozen=True)
class Story:
    """A template, and what is compared on it.

    Attributes:
        case: the name of the template, and of the page.
        searched: position of the hyperparameter whose entries a random search draws; None searches
            the learning rate and the weight decay instead, where the weights are too many.
        metric: the held-out figure that is compared.
        shown: how it is written.
    """

    case: str
    searched: int | None = 0
    metric: str = "test_error"
    shown: Callable[[Sequence[float]], str] = percent

    @property
    def code(self) -> Path:
        job_file.write_template(BUILD / self.case, self.case, overwrite=True)
        return BUILD / self.case


STORIES = (
    Story("hugging-face", searched=1),
    Story("lora"),
    Story("vision", searched=None),
    Story("tabular"),
)
"""Weights of 300 texts are too many for a search, which gets those of their five sources."""


def stages(quick: bool, seeds: int) -> list[Callable[[Results], Sequence[Task]]]:
    """Each story has stages of its own, because a process can load the code of one."""

    def first(story: Story) -> Callable[[Results], Sequence[Task]]:
        return lambda _: [task for seed in range(seeds) for task in chosen(story, seed, quick)]

    def second(story: Story) -> Callable[[Results], Sequence[Task]]:
        return lambda results: [
            task for seed in range(seeds) for task in judged(story, seed, quick, results)
        ]

    return [stage(story) for story in STORIES for stage in (first, second)]


def stated(story: Story, seed: int, quick: bool) -> Spec:
    spec = changed(read_spec(story.code / "job.yaml"), problem={"options": {"seed": seed}})
    return changed(spec, meta={"iterations": 2}) if quick else spec


def budget(spec: Spec) -> int:
    """The cost of the job in training runs; a Hessian-vector product counts two steps."""
    steps: int = spec["training"]["steps"]
    share: float = spec["hypergradient"].get("horizon", steps) / steps
    iterations: int = spec["meta"]["iterations"]
    return round(iterations * (1 + 2 * share))


def searched(story: Story, spec: Spec) -> tuple[Spec, dict[str, tuple[float, float]]]:
    """The job with what a search draws as its hyperparameters, and their ranges."""
    if story.searched is None:
        kinds = [{"kind": kind, "per": "model"} for kind in RECIPE]
        return changed(spec, hyperparameters=kinds), RECIPE
    kind = spec["hyperparameters"][story.searched]
    return spec, {kind.get("name", kind["kind"]): LOGITS}


def chosen(story: Story, seed: int, quick: bool) -> list[Task]:
    """The job, and a search that costs as much."""
    spec = stated(story, seed, quick)
    names = tuple(kind.get("name", kind["kind"]) for kind in spec["hyperparameters"])
    own, space = searched(story, spec)
    code, trials = story.code, budget(spec)
    return [
        Tuned(story.case, "drmad", seed, spec, code, keep=names),
        Search(story.case, "random", seed, own, code, trials, "random", space),
    ]


def judged(story: Story, seed: int, quick: bool, results: Results) -> list[Task]:
    """New training runs with what each arm chose, by the engine and by the user's own loop."""
    spec, runs, code = stated(story, seed, quick), 2 if quick else RUNS, story.code
    tasks: list[Task] = [
        Fresh(story.case, "untuned, again", seed, spec, code, runs),
        Plain(story.case, "untuned, plain", seed, spec, code, runs),
    ]
    if values := best_values(results, story.case, "drmad", seed):
        tasks += [
            Fresh(story.case, "drmad, again", seed, spec, code, runs, values=values),
            Plain(story.case, "drmad, plain", seed, spec, code, runs, values),
        ]
    if values := best_values(results, story.case, "random", seed):
        own, _ = searched(story, spec)
        tasks.append(Fresh(story.case, "random, again", seed, own, code, runs, values=values))
    return tasks


def best_values(results: Results, case: str, arm: str, seed: int) -> dict[str, list[float]]:
    """The raw hyperparameters at the lowest validation loss; none if the arm has not run."""
    arrays = results.arrays(case, arm, seed)
    if arrays is not None:
        return {name: array.astype(float).ravel().tolist() for name, array in arrays.items()}
    found = results.get(case, arm, seed)
    return found.raw if found is not None else {}


def report(results: Results) -> str:
    parts = []
    for story in STORIES:
        if results.of(story.case, "untuned, again"):
            parts += [f"### {story.case}\n", story_report(results, story)]
    return "\n".join(parts)


def story_report(results: Results, story: Story) -> str:
    """The table of a story: the mean of the runs of each seed, and the interval of the means."""
    rows = []
    for arm, label in ARMS.items():
        again = results.of(story.case, f"{arm}, again")
        if not again:
            continue
        plain = results.of(story.case, f"{arm}, plain")
        first = results.of(story.case, arm)
        cost = f"{first[0].cost:.0f}" if first else "–"
        rows.append(
            [
                label,
                cost,
                story.shown([mean_of(run, story) for run in again]),
                *(f"{mean_of(run, story):.3f}" for run in again),
                *(change(results, story, arm, to) for to in ("untuned", "random")),
                story.shown([mean_of(run, story) for run in plain]),
            ]
        )
    seeds = [f"seed {run.seed}" for run in results.of(story.case, "untuned, again")]
    name = story.metric.replace("_", " ")
    changes = ["to untuned, points", "to the search, points"]
    head = ["", "training runs", f"**{name}**", *seeds, *changes, f"{name}, plain PyTorch"]
    return table(head, rows) + "\n" + agreement(results, story)


def mean_of(run: Result, story: Story) -> float:
    """The mean over the runs that judge, not the best of them."""
    values = run.metrics[story.metric]
    return sum(values) / len(values)


def change(results: Results, story: Story, arm: str, to: str) -> str:
    """The figure of an arm minus that of another, paired by seed, and its interval."""
    pairs = [
        (run, other)
        for run in results.of(story.case, f"{arm}, again")
        if (other := results.get(story.case, f"{to}, again", run.seed)) is not None
    ]
    if not pairs or to == arm or arm == "untuned":
        return "–"
    mean, half = mean_and_interval(
        [100.0 * (mean_of(run, story) - mean_of(other, story)) for run, other in pairs]
    )
    return f"{mean:+.1f} ± {half:.1f}"


def agreement(results: Results, story: Story) -> str:
    """How the user's loop compares with the engine, under the engine's draws and under its own."""
    pairs = [
        (run, plain)
        for arm in ("untuned", "drmad")
        for plain in results.of(story.case, f"{arm}, plain")
        if (run := results.get(story.case, f"{arm}, again", plain.seed)) is not None
    ]
    if not pairs:
        return "The user's loop has not been run yet.\n"
    largest = max(d for _, plain in pairs for d in plain.figures["difference"].values())
    alike = sum(is_alike(run.metrics[story.metric], p.metrics[story.metric]) for run, p in pairs)
    return (
        "From the same weights, with the same minibatches, in float64, the validation figures of "
        f"the user's loop and of the engine differ by at most {largest:.0e} ({len(pairs)} pairs of "
        "runs). With draws of its own, the loop reaches the engine's mean, untuned and tuned, in "
        f"{alike} of {len(pairs)} comparisons of five runs with five (Welch's t, 95 %).\n"
    )


def is_alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the 95 % interval of the difference of the means contains zero."""
    if list(one) == list(other):
        return True
    return float(stats.ttest_ind(one, other, equal_var=False).pvalue) >= 0.05


def draw(results: Results, folder: Path) -> None:
    """Writes the tables of the repository's own results into the pages of the stories."""
    if folder != FOLDER:
        return
    for story in STORIES:
        page = PAGES / f"{story.case}.md"
        if results.of(story.case, "untuned, again"):
            page.write_text(with_block(page.read_text(), story_report(results, story)))
