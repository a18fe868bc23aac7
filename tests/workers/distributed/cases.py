"""Training runs that workers can share: every method, product, kind and optimizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers import (
    L1,
    L2,
    AllRows,
    CustomTensor,
    Forward,
    Implicit,
    InitScale,
    LearningRate,
    LossWeight,
    MetaConfig,
    Method,
    Momentum,
    OneStep,
    Problem,
    Replay,
    Reversible,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    TrainingData,
    Tuner,
    WeightDecay,
    error_rate,
)
from drmad_workers.data.shards import Shards
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hyperparameters.base import Kind
from tests.workers.small import CLASSES, mixing_problem, small_problem

ROWS = 40
ALL: Sequence[Kind] = [L2("unit"), SampleWeight(), LossWeight(), LearningRate(), Momentum()]


def tuner(
    method: Method,
    kinds: Sequence[Kind] | None = None,
    problem: Problem | None = None,
    precision: str = "float64",
    **training: Any,
) -> Tuner:
    # Eleven rows do not split evenly among two or four workers.
    settings = {"steps": 12, "batch_size": 11, "learning_rate": 0.2, "momentum": 0.8} | training
    config = TrainingConfig(**settings, precision=precision)  # type: ignore[arg-type]
    kinds = [L2("unit"), SampleWeight()] if kinds is None else kinds
    return Tuner(problem or measured(), kinds, config, method, seed=3)


def measured() -> Problem:
    """A problem with a metric that is a mean over the rows."""
    problem = small_problem(rows=ROWS)
    problem.metrics = {"error": error_rate}
    return problem


def with_all_rows() -> Problem:
    """A problem with a metric of all rows together, and test data."""
    problem = measured()
    problem.test = problem.valid
    problem.metrics = {"error": error_rate, "spread": AllRows(lambda z, _: z.std())}
    return problem


def convolutional() -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(9, CLASSES))
    problem = small_problem(model, rows=ROWS)
    inputs, targets = problem.train
    valid, valid_targets = problem.valid
    problem.train, problem.valid = (inputs[:, None], targets), (valid[:, None], valid_targets)
    return problem


class Augmented(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Items with noise from the global generator, which is a function of the row and the step."""

    def __init__(self, problem: Problem) -> None:
        self._inputs, self._targets = problem.train

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(self._inputs.shape[1], dtype=torch.float64)
        return self._inputs[row] + 0.1 * noise, self._targets[row]


def augmented() -> Problem:
    problem = small_problem(rows=ROWS)
    problem.train = Augmented(problem)
    return problem


CASES: Mapping[str, Callable[[str], Tuner]] = {
    "replay": lambda p: tuner(Replay(), ALL, precision=p),
    "replay of the last steps": lambda p: tuner(Replay(horizon=5), precision=p),
    "stored": lambda p: tuner(Stored(), ALL, precision=p),
    "shortcut": lambda p: tuner(Shortcut(), ALL[:4], precision=p),
    "shortcut in strides": lambda p: tuner(
        Shortcut(max_stride=4, max_adjoint_change=None), precision=p
    ),
    "shortcut by nodes": lambda p: tuner(Shortcut(interpolation_nodes=4), ALL, precision=p),
    "shortcut with gauss_newton": lambda p: tuner(Shortcut(curvature="gauss_newton"), precision=p),
    "shortcut of a part of the minibatches": lambda p: tuner(
        Shortcut(minibatch_subsampling=3, max_stride=4), precision=p
    ),
    "shortcut as published": lambda p: tuner(Shortcut(preset="paper"), precision=p, steps=6),
    "shortcut of convolutions": lambda p: tuner(Shortcut(), [L2()], convolutional(), p),
    "reversible": lambda p: tuner(Reversible(), ALL, precision=p),
    "one_step": lambda p: tuner(OneStep(), precision=p),
    "forward": lambda p: tuner(
        Forward(), [L2(), LossWeight(), LearningRate(), SampleWeight(per="class")], precision=p
    ),
    "implicit by conjugate gradient": lambda p: tuner(
        Implicit(damping=1.0, tolerance=1.0, iterations=4), precision=p
    ),
    "implicit by neumann": lambda p: tuner(
        Implicit(solver="neumann", tolerance=1.0, iterations=4, step_size=0.05), precision=p
    ),
    "auto": lambda p: tuner(Auto(), precision=p),
    "finite differences": lambda p: tuner(Replay(hvp="finite_difference"), precision=p),
    "l1 and initial scales": lambda p: tuner(Replay(), [L1("layer"), InitScale()], precision=p),
    "weights of classes": lambda p: tuner(Replay(), [SampleWeight(per="class")], precision=p),
    "learned inputs": lambda p: tuner(Replay(), [TrainingData()], precision=p),
    "weight decay": lambda p: tuner(Replay(), [WeightDecay()], precision=p, weight_decay=0.01),
    "own losses": lambda p: tuner(
        Replay(), [CustomTensor("mixing"), SampleWeight()], mixing_problem(ROWS), p
    ),
    "adam": lambda p: tuner(Replay(), precision=p, optimizer="adam", learning_rate=0.01),
    "adamw by a shortcut": lambda p: tuner(
        Shortcut(), precision=p, optimizer="adamw", learning_rate=0.01
    ),
    "clipped": lambda p: tuner(Replay(), precision=p, clip_norm=0.5),
    "accumulated": lambda p: tuner(Replay(), precision=p, accumulate=2, clip_norm=0.5),
    "random items": lambda p: tuner(Replay(), problem=augmented(), precision=p),
    "all rows": lambda p: tuner(Replay(), problem=with_all_rows(), precision=p),
    "judging rows": lambda p: Tuner(
        measured(),
        [L2()],
        TrainingConfig(steps=8, batch_size=10, precision=p),  # type: ignore[arg-type]
        Replay(),
        shards=Shards(judging=MetaConfig().judging_share or 0.3),
    ),
}
