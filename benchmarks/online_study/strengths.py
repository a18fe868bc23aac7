"""The weight decay and the strength of an augmentation, of a net with few training rows."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from torch import Tensor, nn

from drmad_workers import (
    CustomTensor,
    Hyperparameter,
    MetaConfig,
    Problem,
    TrainingConfig,
    WeightDecay,
    error_rate,
)
from drmad_workers.problem import Batch
from online_study.digits import model
from online_study.study import Figures, Study, Values, transformed

WRONG = 120
"""The training labels that are drawn at random in the noisy problem."""
INIT = -3.0
"""The logarithm of the strength with which tuning begins."""


def inner_loss(forward: nn.Module, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The cross entropy of inputs with Gaussian noise of the strength added."""
    noisy = batch.inputs + values["strength"] * torch.randn_like(batch.inputs)
    return nn.functional.cross_entropy(forward(noisy), batch.targets)


def problem(seed: int, rows: int = 150, wrong: int = 0) -> Problem:
    """The first rows train, 500 are validation rows, and the others test."""
    x, y = map(torch.tensor, shuffle(*load_digits(return_X_y=True), random_state=seed))
    x, draw = x.float() / 16, torch.Generator().manual_seed(seed)
    y[:wrong] = torch.randint(0, 10, (wrong,), generator=draw)
    ends = (0, rows, rows + 500, len(y))
    train, valid, test = ((x[i:j], y[i:j]) for i, j in pairwise(ends))
    return Problem(
        model(),
        train,
        valid,
        test,
        inner_loss=inner_loss,
        hyperparameters={"strength": Hyperparameter(torch.tensor(INIT), "exp", -6.0, 1.0)},
        metrics={"error": error_rate},
        initialize="reset",
    )


def shown(seed: int, values: Values) -> Figures:
    return {name: transformed(values, name)[0] for name in ("strength", "weight_decay")}


STRENGTHS = Study(
    problem,
    [CustomTensor("strength"), WeightDecay(init=-7.0, lower=-14.0, upper=-1.0)],
    TrainingConfig("sgd", 500, 50, 0.1, 0.9, weight_decay=1e-3),
    MetaConfig("adam", 0.3),
    space={"strength": (-6.0, 1.0), "weight_decay": (-14.0, -1.0)},
    shown=shown,
)
NOISY = replace(STRENGTHS, problem=partial(problem, rows=300, wrong=WRONG))
