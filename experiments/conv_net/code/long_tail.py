"""A small convolutional net on digits of which half the classes are rare in the training set."""

import torch
from torch import nn

from drmad_workers import Problem
from drmad_workers.catalog import load_data
from drmad_workers.problem import error_rate

COMMON, RARE = 100, 10
"""Training examples of a class: of 0 to 4, and of 5 to 9."""


def build(width: int = 8, seed: int = 0, weighted: bool = False) -> Problem:
    """`weighted` repeats the rare examples until every class is as frequent as any other."""
    split = load_data("digits", {"train": 1200, "valid": 300, "test": 297, "seed": seed})
    inputs, targets = split.train
    rows = []
    for label in range(10):
        own = (targets == label).nonzero()[:, 0][: COMMON if label < 5 else RARE]
        rows.append(own.repeat(COMMON // RARE) if weighted and label >= 5 else own)
    chosen = torch.cat(rows)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, width, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )
    return Problem(
        model=model,
        train=(inputs[chosen], targets[chosen]),
        valid=split.valid,
        test=split.test,
        metrics={"error": error_rate},
        initialize="reset",
    )
