"""Tuning in one training run beside restarts: test errors after retraining, work, and overhead.

    python benchmarks/online.py [--quick] [--part choose,report,mnist,overhead,job] [--json FILE]
    python benchmarks/online.py [--json FILE] --tables

Digits with half of the 1,000 training labels drawn at random, a weight for every example, an MLP
64-50-10. `choose` tries settings of online runs on the seeds 100 to 104; the one with the lowest
mean validation loss after retraining, among those of at most 6 training runs of 500 steps, is
reported on the seeds 0 to 4 by `report`, beside 30 restarts and uniform weights. Retraining is a
plain loop of torch.optim of 500 steps with the weights that were found. Work counts gradients and
products as experiments/README.md does, and the gradients of the outer loss, by their rows.
`overhead` compares the CPU time of a window with that of its gradients and products alone, which
the engine takes in a bare loop in turn with the windows, and with autograd's own; `job` has that of
the windows of a job on a service, with what lies between them. `mnist` chooses among three rates on
two seeds, at most 8 training runs of 1,000 steps, and reports five others. Each measurement is a
line of the --json file; those that are there are not repeated. benchmarks/online_study/online.jsonl
has those of the guide "Restart or online?".
"""

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from online_study import mnist
from online_study.digits import online, restarts, uniform
from online_study.job import job_overhead
from online_study.lines import Results
from online_study.overhead import overhead
from online_study.tables import best_of, report

GRID: list[dict[str, Any]] = [
    {"steps": steps, "window": window, "rate": rate}
    for steps, window in ((700, 20), (900, 30))
    for rate in (0.2, 0.4, 0.8)
]


MEASURED = Path(__file__).parent / "online_study" / "online.jsonl"
MNIST_GRID: list[dict[str, Any]] = [
    {"steps": 2250, "window": 30, "rate": rate} for rate in (0.2, 0.4, 0.8)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed and setting: a minute")
    parser.add_argument("--json", type=Path, help="where all figures go, a line for each")
    parser.add_argument("--part", default="choose,report,mnist,overhead,job")
    parser.add_argument("--tables", action="store_true", help="print the tables, measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(MEASURED if options.tables and options.json is None else options.json)
    parts = () if options.tables else options.part.split(",")
    grid, seeds = (GRID[:1], 1) if options.quick else (GRID, 5)
    if "choose" in parts:
        for seed, setting in product(range(100, 100 + seeds), grid):
            key = {"part": "choose", "seed": seed, **setting}
            results.add(key, partial(online, seed, **setting, draws=2))
    if "report" in parts and (chosen := best_of(results.lines)) is not None:
        iterations = 2 if options.quick else 30
        for seed in range(seeds):
            key = {"part": "report", "seed": seed}
            results.add({**key, "arm": "online", **chosen}, partial(online, seed, **chosen))
            results.add({**key, "arm": "uniform"}, partial(uniform, seed))
            arm = {**key, "arm": "restarts", "iterations": iterations}
            results.add(arm, partial(restarts, seed, iterations))
    if "mnist" in parts:
        for seed, setting in product(range(100, 100 + min(seeds, 2)), MNIST_GRID):
            key = {"part": "choose mnist", "seed": seed, **setting}
            results.add(key, partial(mnist.online, seed, **setting, draws=2))
        chosen = best_of(results.lines, "choose mnist", 8.0)
        assert chosen is not None
        for seed in range(seeds):
            key = {"part": "report mnist", "seed": seed}
            results.add({**key, "arm": "online", **chosen}, partial(mnist.online, seed, **chosen))
            results.add({**key, "arm": "uniform"}, partial(mnist.uniform, seed))
    if "overhead" in parts:
        for window, repetition in product((10, 30), range(1 if options.quick else 5)):
            key = {"part": "overhead", "window": window, "repetition": repetition}
            results.add(key, partial(overhead, window))
    if "job" in parts:
        for window in (10, 30):
            results.add({"part": "job", "window": window}, partial(job_overhead, window))
    print(report(results.lines))


if __name__ == "__main__":
    main()
