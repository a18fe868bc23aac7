"""Small problems whose figures a GPU must share with the CPU."""

from typing import Any

import torch
from torch import nn

from drmad_workers import (
    L2,
    Evaluation,
    Forward,
    Implicit,
    LearningRate,
    Method,
    OneStep,
    Problem,
    Replay,
    Reversible,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.hyperparameters.base import Kind
from tests.workers.small import CLASSES, small_problem

METHODS: dict[str, tuple[Method, list[Kind]]] = {
    "replay": (Replay(), [L2("unit"), SampleWeight(), LearningRate()]),
    "stored": (Stored(), [L2("unit"), SampleWeight(), LearningRate()]),
    "shortcut": (Shortcut(), [L2("unit"), SampleWeight()]),
    "shortcut in strides": (
        Shortcut(max_stride=4, max_adjoint_change=None),
        [L2("unit"), SampleWeight()],
    ),
    "reversible": (Reversible(), [L2("unit"), SampleWeight()]),
    "forward": (Forward(), [L2(), LearningRate()]),
    "one_step": (OneStep(), [L2("unit"), SampleWeight()]),
    "implicit": (Implicit(damping=1.0, tolerance=1.0, iterations=4), [L2("unit"), SampleWeight()]),
}


def problem(wide: int = 5) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, wide), nn.Tanh(), nn.Linear(wide, CLASSES))
    return small_problem(model, rows=40)


def evaluated(
    method: str, device: str, precision: str = "float64", wide: int = 5, **training: Any
) -> Evaluation:
    settings = {"steps": 12, "batch_size": 10, "learning_rate": 0.2, "momentum": 0.8} | training
    taken, kinds = METHODS[method]
    config = TrainingConfig(**settings, precision=precision)  # type: ignore[arg-type]
    tuner = Tuner(problem(wide), kinds, config, taken, seed=3, device=device)
    return tuner.evaluate(tuner.initial_values(), 1)


def error(found: Evaluation, expected: Evaluation) -> float:
    """The largest relative difference of a part of the hypergradient."""
    return max(
        float((found.hypergradient[name] - part).norm() / part.norm())
        for name, part in expected.hypergradient.items()
    )
