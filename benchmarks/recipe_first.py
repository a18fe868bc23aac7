"""A text classifier and a table whose rows mislead: do reported figures hold, and is tuning better?

    python benchmarks/recipe_first.py --json benchmarks/recipe_first_study/results.jsonl
    python benchmarks/recipe_first.py --json benchmarks/recipe_first_study/results.jsonl --tables

Each arm gets about as many training runs: none; TPE over three numbers of the recipe; drmad over
weights of the rows at the recipe as given; TPE with half of the runs, and drmad at its best recipe
with the rest. Each arm's hyperparameters are then retrained ten times, in draws that had no part in
the choice, by a plain PyTorch loop that shares nothing with drmad.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from recipe_first_study.arms import ARMS, WORKS, result, within


def report(job: str, results: Sequence[dict[str, Any]]) -> str:
    figures = WORKS[job].figures
    lines = [
        f"| {job} | {', '.join(f'{figure}, retrained' for figure in figures)} "
        "| reported = retrained |".replace(", retrained, ", ", retrained | "),
        "|---" * (len(figures) + 2) + "|",
    ]
    for name, arm in ARMS[job].items():
        own = [each for each in results if each["arm"] == name and each["job"] == job]
        if not own:
            continue
        row = [_over_seeds(own, figure, scale) for figure, scale in figures.items()]
        all_held = [within(each, figure) for each in own for figure in figures]
        known = [each for each in all_held if each is not None]
        held = f"{sum(known)} of {len(known)}" if known else "–"
        lines.append(f"| {arm.label} | {' | '.join(row)} | {held} |")
    return "\n".join(lines)


def _over_seeds(results: Sequence[dict[str, Any]], figure: str, scale: float) -> str:
    means = [scale * fmean(each["retrained"][figure]) for each in results]
    spread = f" ± {stdev(means):.3g}" if len(means) > 1 else ""
    each = ", ".join(f"{mean:.3g}" for mean in means)
    return f"{fmean(means):.3g}{spread} ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="all figures, a line for each run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--tables", action="store_true", help="print the tables, measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = options.json.read_text().splitlines() if options.json.exists() else []
    results = [json.loads(line) for line in lines]
    known = {(each["job"], each["arm"], each["seed"]) for each in results}
    wanted = [
        (job, name, seed)
        for job in options.jobs
        for seed in range(options.seeds)
        for name in ARMS[job]
    ]
    for job, name, seed in wanted:
        if options.tables or (job, name, seed) in known:
            continue
        results.append(result(job, name, seed))
        with options.json.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
        print(job, name, seed, round(results[-1]["cpu_seconds"]), "s", file=sys.stderr, flush=True)
    print("\n\n".join(report(job, results) for job in options.jobs))


if __name__ == "__main__":
    main()
