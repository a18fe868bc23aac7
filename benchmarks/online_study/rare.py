"""A convolutional net on digits of which half the classes are rare; a weight for every class."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch

from drmad_workers import LossWeight, MetaConfig, Problem, Shortcut, TrainingConfig
from online_study.study import Study, transformed

CODE = Path(__file__).parents[2] / "experiments" / "conv_net" / "code" / "long_tail.py"


@cache
def long_tail() -> Any:
    """The module of the experiment, which a job takes as its code."""
    spec = importlib.util.spec_from_file_location("long_tail", CODE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def problem(seed: int) -> Problem:
    built: Problem = long_tail().build(seed=seed)
    return built


RARE = Study(
    problem,
    [LossWeight(lower=-4.0, upper=4.0)],
    TrainingConfig("damped_sgd", 200, 50, 1.0, 0.9),
    MetaConfig("adam", 0.1),
    Shortcut(horizon=100),
    space={"loss_weight": (-2.0, 4.0)},
    shown=lambda seed, values: {"weights": transformed(values, "loss_weight")},
)
BALANCED = {"loss_weight": torch.tensor([0.0] * 5 + [10.0] * 5).clamp_min(1.0).log()}
"""The usual remedy: the rare classes are a tenth as frequent as the others."""
