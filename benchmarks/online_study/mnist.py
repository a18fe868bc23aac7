"""MNIST with half of the labels drawn at random, as experiments/wrong_labels has it."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drmad_workers.catalog import Places, build_problem
from online_study.digits import RETRAININGS, Digits, Recipe, figures_of, online_on

TRAIN = 5000


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 50), nn.Tanh(), nn.Linear(50, 10))


MNIST = Recipe(model, 1000, 100, 0.05)
"""Apart from its first step the damped momentum of the experiment at the rate 0.5."""


def mnist(seed: int) -> Digits:
    """5,000, 1,000 and 4,000 rows; half of the training labels are drawn at random."""
    roots = [Path(root) for root in os.environ["DRMAD_DATA_ROOTS"].split(os.pathsep)]
    rows = {"name": "mnist", "train": TRAIN, "valid": 1000, "test": 4000, "seed": seed}
    built = build_problem({"name": "mlp"}, rows, seed, Places(roots))
    x, truth = built.train
    y, draw = truth.clone(), torch.Generator().manual_seed(seed)
    half = TRAIN // 2
    y[torch.randperm(TRAIN, generator=draw)[:half]] = torch.randint(0, 10, (half,), generator=draw)
    assert built.test is not None
    return Digits((x.flatten(1), y), _flat(built.valid), _flat(built.test), y != truth)


def _flat(pair: Any) -> Any:
    inputs, targets = pair
    return inputs.flatten(1), targets


def online(
    seed: int, steps: int, window: int, rate: float, draws: int = RETRAININGS
) -> dict[str, Any]:
    """One run; its work counts in runs of 1,000 steps."""
    return online_on(mnist(seed), MNIST, seed, steps, window, rate, draws)


def uniform(seed: int) -> dict[str, Any]:
    return figures_of(mnist(seed), torch.full((TRAIN,), 40.0), 0.0, recipe=MNIST)
