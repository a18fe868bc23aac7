"""Training runs on MNIST and digits, at the start and after some meta-iterations."""

from collections.abc import Iterator

import torch
from experiments.opponents import data_roots

from drmad_workers import MetaConfig, Replay, SampleWeight, Shortcut, TrainingConfig, Tuner, tune
from drmad_workers.catalog import build_problem
from drmad_workers.catalog.places import Places
from lds_study.cells import CELLS

STEP = 0.3
"""The outer step along the signs of a hypergradient."""
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


def runs(only: str = "") -> Iterator[tuple[str, Tuner, Values]]:
    """The runs whose name contains `only`: name, tuner, and the hyperparameters to measure at."""
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
        yield name, tuner, tuner.initial_values()
        config = MetaConfig("adam", STEP, iterations, confirmation=0.0)
        method = Shortcut(horizon=training.steps // 10)
        state = tune(problem, [SampleWeight()], training, method, config).state
        assert state is not None
        yield f"{name}, after {iterations} meta-iterations", tuner, state.hyperparameters
    for cell in CELLS:
        if only in cell.name and cell.model == "mlp":
            tuner = Tuner(cell.problem(), cell.kinds(), cell.training(), Replay())
            yield f"digits, {cell.name}", tuner, tuner.initial_values()


def moved(values: Values, hypergradient: Values) -> Values:
    """The hyperparameters after an outer step of STEP along the signs."""
    return {name: values[name] - STEP * each.sign() for name, each in hypergradient.items()}


def loss_of(tuner: Tuner, values: Values, draw: int) -> float:
    """The validation loss of a training run under the hyperparameters and a draw."""
    return tuner.retrain(values, draw)[0]["validation_loss"]
