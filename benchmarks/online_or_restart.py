"""One run, restarts and searches on four problems, each judged by retraining.

    python benchmarks/online_or_restart.py [--quick] [--part sources,rare,strengths,noisy]
        [--json FILE]
    python benchmarks/online_or_restart.py --json FILE --tables

`sources`: a pretrained transformer is fine-tuned on texts of five sources of which two are
corrupted, a fifth of all labels wrong. `rare`: a convolutional net whose rare classes need a larger
weight. `strengths`: the weight decay and the strength of an augmentation of a small net; `noisy`:
the same with wrong labels.

The settings of the online runs, and the rate of one-step reweighting, are those of the lowest
validation loss after retraining on the seeds 100 and 101; the seeds 0 to 4 report every arm.
Work counts as in experiments/README.md. Each measurement is a line of the --json file; those that
are there are not repeated. benchmarks/online_study/results.jsonl has those of the guide "Restart or
online?".
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from online_study.lines import Results
from online_study.rare import BALANCED, RARE
from online_study.reweighting import reweighted
from online_study.sources import SOURCES, WITHOUT
from online_study.strengths import NOISY, STRENGTHS
from online_study.study import Figures, fixed, online, restarts, searched
from online_study.tables import best_of, comparison

RESULTS = Path(__file__).parent / "online_study" / "results.jsonl"
CHOICE_SEEDS = (100, 101)
ITERATIONS = 30
MOST_RUNS = 14.0
"""The work of an online run, in training runs."""
Arm = Callable[[int], Figures]
Setting = dict[str, Any]


def grid(steps: int, windows: Sequence[int], rates: Sequence[float]) -> list[Setting]:
    pairs = product(windows, rates)
    return [{"steps": steps, "window": window, "rate": rate} for window, rate in pairs]


SETTINGS: dict[str, Sequence[Setting]] = {
    "sources": [*grid(240, (40,), (0.5, 1.0)), *grid(480, (40, 60), (0.5, 1.0))],
    "rare": grid(400, (20, 50), (0.05, 0.1, 0.2)),
    "strengths": grid(1000, (10, 50, 250), (0.1, 0.2, 0.4)),
    "noisy": grid(1000, (10, 50, 250), (0.2, 0.4)),
}
STUDIES = {"sources": SOURCES, "rare": RARE, "strengths": STRENGTHS, "noisy": NOISY}
TRIALS = {"sources": 13, "rare": 7, "strengths": 7, "noisy": 7}
"""The training runs of a search, which are those of an online run."""
PASSES: Setting = {"steps": 400, "window": 20, "rate": 0.1, "passes": 2}
"""Two training runs one after the other, of the lowest validation loss on three other seeds, beside
one of 400 or 800 steps in windows of 20 or 40."""
LOOKING_BACK: Setting = {"steps": 1000, "window": 10, "rate": 0.2, "horizon": 50}
"""Windows of ten steps whose backward pass goes on through the forty before."""
FACTORS = (1.0, 3.0)
"""Multiples of the learning rate for one-step reweighting."""


def chosen(results: Results, part: str, **only: Any) -> Setting:
    """The setting of the lowest validation loss on the seeds of the choice."""
    lines = [line for line in results.lines if only.items() <= line.items()]
    names = ("factor",) if part.endswith("reweighting") else ("steps", "window", "rate")
    found = best_of(lines, f"choose {part}", MOST_RUNS, names)
    assert found is not None
    return found


def choose(results: Results, part: str, seeds: Sequence[int]) -> None:
    for seed, setting in product(seeds, SETTINGS[part]):
        key = {"part": f"choose {part}", "seed": seed, **setting}
        results.add(key, partial(online, STUDIES[part], seed, **setting))
    if part == "sources":
        for seed, factor in product(seeds, FACTORS):
            key = {"part": "choose reweighting", "seed": seed, "factor": factor}
            results.add(key, partial(reweighted, seed, factor))


def arms(results: Results, part: str, iterations: int) -> Iterator[tuple[str, Setting, Arm]]:
    """Every arm of a part: its name, its setting and its measurement of a seed."""
    study = STUDIES[part]
    settings = [chosen(results, part)]
    if study.space.keys() > {"strength"}:  # what the length of the window does
        settings = [chosen(results, part, window=window) for window in (10, 50, 250)]
    for setting in settings:
        yield "online", setting, partial(online, study, **setting)
    if part == "noisy":
        yield "online, horizon of 50", LOOKING_BACK, partial(online, study, **LOOKING_BACK)
    yield "untuned", {}, partial(fixed, study)
    trials = 2 if iterations < ITERATIONS else TRIALS[part]
    yield "TPE", {"trials": trials}, partial(searched, study, trials=trials)
    if part == "sources":
        factor = chosen(results, "reweighting")
        yield "one-step reweighting", factor, partial(reweighted, **factor)
        yield "without the corrupted sources", {}, lambda seed: fixed(study, seed, WITHOUT)
        return
    yield "restarts", {"iterations": iterations}, partial(restarts, study, iterations=iterations)
    if part == "rare":
        yield "online, two passes", PASSES, partial(online, study, **PASSES)
        yield "ten times the rare classes", {}, lambda seed: fixed(study, seed, BALANCED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, two iterations: minutes")
    parser.add_argument("--json", type=Path, help="where all figures go, a line for each")
    parser.add_argument("--part", default=",".join(STUDIES))
    parser.add_argument("--tables", action="store_true", help="print the tables, measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS if options.tables and options.json is None else options.json
    results = Results(path)
    count = 1 if options.quick else len(CHOICE_SEEDS)
    for part in () if options.tables else options.part.split(","):
        choose(results, part, CHOICE_SEEDS[:count])
        made = list(arms(results, part, 2 if options.quick else ITERATIONS))
        for seed, (name, setting, arm) in product(range(1 if options.quick else 5), made):
            key = {"part": f"report {part}", "seed": seed, "arm": name, **setting}
            results.add(key, partial(arm, seed))
    print(comparison(results.lines, STUDIES))


if __name__ == "__main__":
    main()
