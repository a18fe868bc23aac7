"""The problem of most parts: an MLP 784-50-50-50-10 on MNIST, one log penalty per input unit."""

import os
from pathlib import Path

import torch

from drmad_workers import L2, Problem, Replay, Shortcut, Stored, TrainingConfig, Tuner
from drmad_workers.catalog import build_problem
from drmad_workers.catalog.places import Places
from drmad_workers.hypergradients import Method

ALPHA, GAMMA = 0.5, 0.9
PENALTY = -9.0


def problem_of() -> Problem:
    roots = [Path(r) for r in os.environ.get("DRMAD_DATA_ROOTS", "").split(os.pathsep) if r]
    places = Places(roots)
    data = {"name": "mnist", "train": 5000, "valid": 1000, "test": 0}
    return build_problem({"name": "mlp", "hidden": [50, 50, 50]}, data, places=places)


def training_of(steps: int) -> TrainingConfig:
    return TrainingConfig("damped_sgd", steps, 50, ALPHA, GAMMA)


def methods_at(steps: int) -> dict[str, Method]:
    return {
        "shortcut T/10": Shortcut(horizon=max(1, steps // 10)),
        "shortcut": Shortcut(),
        "replay": Replay(),
        "stored": Stored(),
        "DrMAD as published, T/10": Shortcut(preset="paper_tenth"),
    }


def tuner_of(steps: int, method: Method, device: torch.device) -> Tuner:
    kinds = [L2(per="unit", init=PENALTY)]
    return Tuner(problem_of(), kinds, training_of(steps), method, device=device)
