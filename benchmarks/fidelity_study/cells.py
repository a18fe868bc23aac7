"""The training problems, and what is measured in each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from drmad_workers import L2, Problem, Replay, SampleWeight, Shortcut, TrainingConfig
from drmad_workers.catalog import Places, build_problem
from drmad_workers.hypergradients import Method
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.hyperparameters.learning_rate import LearningRate

MILD, HARSH = 0.05, 0.5


@dataclass(frozen=True)
class Cell:
    """One training problem; α in the papers' convention (damped_sgd)."""

    kind: str
    model: str
    steps: int
    learning_rate: float
    momentum: float = 0.9
    tuned: bool = False

    @property
    def name(self) -> str:
        how = "mild" if self.learning_rate == MILD else "harsh"
        rest = "" if self.momentum == 0.9 else f" γ={self.momentum}"
        return f"{self.kind} {self.model} {how} T={self.steps}{rest}{' tuned' * self.tuned}"

    @property
    def harsh(self) -> bool:
        return self.learning_rate == HARSH

    def training(self) -> TrainingConfig:
        rows = 100 if self.kind == "sample_weight" else 50
        return TrainingConfig("damped_sgd", self.steps, rows, self.learning_rate, self.momentum)

    def kinds(self) -> list[Kind]:
        kinds: dict[str, Kind] = {
            "l2": L2(per="unit"),
            "sample_weight": SampleWeight(),
            "learning_rate": LearningRate(per="layer"),
        }
        return [kinds[self.kind]]

    def problem(self, roots: Sequence[Path]) -> Problem:
        hidden = [50] if self.model == "mlp-50" else [50, 50, 50]
        noise = 0.5 if self.kind == "sample_weight" else 0.0
        data = {"name": "mnist", "train": 5000, "valid": 1000, "test": 0, "label_noise": noise}
        problem = build_problem({"name": "mlp", "hidden": hidden}, data, places=Places(roots))
        if self.model == "cnn":
            torch.manual_seed(0)
            problem.model = nn.Sequential(
                nn.Unflatten(1, (1, 28, 28)),
                nn.Conv2d(1, 8, 5, stride=2),
                nn.Tanh(),
                nn.Conv2d(8, 16, 3, stride=2),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(400, 10),
            )
        return problem


def all_cells() -> list[Cell]:
    lengths, rates = (100, 500, 1000, 2000, 5000), (MILD, HARSH)
    cells = [Cell("l2", "mlp-50-50-50", t, a) for t in lengths for a in rates]
    cells += [Cell("sample_weight", "mlp-50", t, a) for t in lengths for a in rates]
    cells += [Cell("learning_rate", "mlp-50-50-50", t, a) for t in (100, 500, 1000) for a in rates]
    cells += [Cell("l2", "mlp-50-50-50", 500, a, g) for g in (0.1, 0.5, 0.95) for a in rates]
    cells += [Cell("sample_weight", "mlp-50", 500, a, g) for g in (0.1, 0.95) for a in rates]
    cells += [Cell(kind, "cnn", 200, a) for kind in ("l2", "sample_weight") for a in rates]
    cells += [Cell("l2", "mlp-50-50-50", 500, a, tuned=True) for a in rates]
    cells += [Cell("sample_weight", "mlp-50", 500, a, tuned=True) for a in rates]
    return sorted(cells, key=lambda cell: cell.steps)


QUICK = (
    Cell("l2", "mlp-50-50-50", 100, MILD),
    Cell("l2", "mlp-50-50-50", 500, MILD),
    Cell("l2", "mlp-50-50-50", 100, HARSH),
    Cell("sample_weight", "mlp-50", 500, MILD),
    Cell("sample_weight", "mlp-50", 500, HARSH),
    Cell("sample_weight", "mlp-50", 1000, HARSH),
    Cell("learning_rate", "mlp-50-50-50", 100, MILD),
)


def methods_of(cell: Cell) -> dict[str, Method]:
    """What is measured in a cell, by a name that is the same in every cell."""
    training = cell.training()
    part = {f"T/{n}": max(1, training.steps // n) for n in (2, 4, 10)}
    methods: dict[str, Method] = {"shortcut": Shortcut()}
    methods |= {f"shortcut {name}": Shortcut(horizon=n) for name, n in part.items()}
    methods["replay T/2"] = Replay(horizon=part["T/2"])
    methods["paper T/10"] = Shortcut(preset="paper_tenth")
    methods["15 nodes"] = Shortcut(interpolation_nodes=15)
    if cell.steps < 500:
        methods |= {
            "8 copies": Shortcut(budget=8),
            "half of the early minibatches": Shortcut(minibatch_subsampling=2),
            "single steps": Shortcut(max_stride=1, max_adjoint_change=None),
            "strides of 5": Shortcut(max_stride=5, max_adjoint_change=None),
            "4 nodes": Shortcut(interpolation_nodes=4),
            "15 nodes without averaging": Shortcut(interpolation_nodes=15, averaging_window=1),
            "15 nodes, window of 20": Shortcut(interpolation_nodes=15, averaging_window=20),
            "contraction": Shortcut(contraction=True),
            "gauss-newton": Shortcut(curvature="gauss_newton"),
            "line, contraction": Shortcut(
                interpolation_nodes=1,
                averaging_window=1,
                max_stride=1,
                max_adjoint_change=None,
                contraction=True,
            ),
            "paper": Shortcut(preset="paper"),
        }
    return methods
