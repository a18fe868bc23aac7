"""Does the cosine to the exact hypergradient of another draw foretell what retraining gains?

    python benchmarks/usefulness.py [--only TEXT]

For each run, three draws of initial weights and minibatches are differentiated exactly and by the
shortcut over the last fourth and tenth. Each hypergradient takes an outer step of 0.3 along its
signs, and the two other draws are trained before and after it. A row has the cosine to the exact
hypergradient of the same draw, that to the exact one of the other draws beside what the exact one
reaches there (the usefulness), and the mean gain in validation loss beside that of the exact step.
"""

import argparse
import sys
from itertools import permutations
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))  # of the experiments
import torch

from drmad_workers import Replay, Shortcut, Tuner
from drmad_workers.hypergradients import Method
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.backward_pass import BackwardPass
from usefulness_study.runs import Values, loss_of, moved, runs

DRAWS = 3


def measured(name: str, tuner: Tuner, values: Values) -> None:
    steps = tuner.replica.training.steps
    methods: dict[str, Method] = {
        "exact": Replay(),
        **{f"T/{part}": Shortcut(horizon=steps // part) for part in (4, 10)},
    }
    found: dict[str, list[Values]] = {label: [] for label in methods}
    for draw in range(DRAWS):
        passes, _ = tuner.compare(values, list(methods.values()), draw)
        for label, each in zip(methods, passes, strict=True):
            assert isinstance(each, BackwardPass)
            found[label].append(each.hypergradient)
    before = [loss_of(tuner, values, draw) for draw in range(DRAWS)]
    pairs = list(permutations(range(DRAWS), 2))
    across, gains = {}, {}
    for label, hypergradients in found.items():
        across[label] = fmean(
            agreement(hypergradients[one], found["exact"][other]).cosine for one, other in pairs
        )
        steps_taken = [moved(values, each) for each in hypergradients]
        gains[label] = fmean(
            before[other] - loss_of(tuner, steps_taken[one], other) for one, other in pairs
        )
    for label in list(methods)[1:]:
        own = fmean(
            agreement(each, exact).cosine
            for each, exact in zip(found[label], found["exact"], strict=True)
        )
        print(
            f"| {name} | {across['exact']:.2f} | {label} | {own:.2f} "
            f"| {across[label] / across['exact']:.2f} | {gains[label] / gains['exact']:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the runs whose name contains this")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    print("| run | exact: cosine to another draw | method | same draw | usefulness | gain |")
    print("|---|---|---|---|---|---|")
    for name, tuner, values in runs(only):
        measured(name, tuner, values)


if __name__ == "__main__":
    main()
