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
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))  # of the experiments
import torch
from experiments.opponents import data_roots

from drmad_workers import MetaConfig, Replay, SampleWeight, Shortcut, TrainingConfig, Tuner, tune
from drmad_workers.catalog import build_problem
from drmad_workers.catalog.places import Places
from drmad_workers.hypergradients import Method
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.backward_pass import BackwardPass
from lds_study.cells import CELLS

DRAWS, STEP = 3, 0.3
WRONG = {
    "MNIST, half of the labels wrong": (
        {"name": "mnist", "train": 5000, "valid": 1000, "test": 4000, "label_noise": 0.5},
        TrainingConfig("damped_sgd", 1000, 100, 0.5, 0.9),
        12,
    ),
    "digits, 40 % wrong": (
        {"name": "digits", "train": 1000, "valid": 300, "test": 497, "label_noise": 0.4},
        TrainingConfig("damped_sgd", 500, 50, 1.0, 0.9),
        15,
    ),
}
"""The data, the training, and the meta-iterations after which it is measured again."""

Values = dict[str, torch.Tensor]


def measured(name: str, tuner: Tuner, values: Values) -> None:
    steps = tuner.replica.training.steps
    methods: dict[str, Method] = {
        "exact": Replay(),
        **{f"T/{part}": Shortcut(horizon=steps // part) for part in (4, 10)},
    }
    found: dict[str, list[Mapping[str, torch.Tensor]]] = {label: [] for label in methods}
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
        moved = [
            {n: values[n] - STEP * gradient.sign() for n, gradient in each.items()}
            for each in hypergradients
        ]
        gains[label] = fmean(
            before[other] - loss_of(tuner, moved[one], other) for one, other in pairs
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


def loss_of(tuner: Tuner, values: Values, draw: int) -> float:
    return tuner.retrain(values, draw)[0]["validation_loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the runs whose name contains this")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    print("| run | exact: cosine to another draw | method | same draw | usefulness | gain |")
    print("|---|---|---|---|---|---|")
    for name, (data, training, iterations) in WRONG.items():
        if only not in name:
            continue
        problem = build_problem(
            {"name": "mlp", "hidden": [50]},
            data,
            initialize="reset",
            places=Places(data_roots()),
        )
        tuner = Tuner(problem, [SampleWeight()], training, Replay())
        measured(name, tuner, tuner.initial_values())
        config = MetaConfig("adam", STEP, iterations, confirmation=0.0)
        method = Shortcut(horizon=training.steps // 10)
        state = tune(problem, [SampleWeight()], training, method, config).state
        assert state is not None
        measured(f"{name}, after {iterations} meta-iterations", tuner, state.hyperparameters)
    for cell in CELLS:
        if only in cell.name and cell.model == "mlp":
            tuner = Tuner(cell.problem(), cell.kinds(), cell.training(), Replay())
            measured(f"digits, {cell.name}", tuner, tuner.initial_values())


if __name__ == "__main__":
    main()
