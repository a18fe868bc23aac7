"""Five tasks, each the digits turned by an angle of its own, that may share their weights.

Every task has its own small net with parameters V_l[k] in layer l. What it computes with is a
mixture, W_l[k] = Σ_j A_l[k, j] V_l[j]; the 5 × 5 matrices A_l are hyperparameters ([Maclaurin2015],
has rotated alphabets in the place of the digits).

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning, 1502.03492.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from drmad_workers import Batch, Hyperparameter, Problem
from drmad_workers.catalog import load_data

ANGLES = (0.0, 15.0, 30.0, 180.0, 195.0)
"""Degrees. The first three are alike, and so are the last two."""
HIDDEN = 20
NAMES = ("first", "second")


class Tasks(nn.Module):
    """One net per task, all at once; the tasks' inputs lie behind each other in the rows."""

    def __init__(self, features: int) -> None:
        super().__init__()
        tasks = len(ANGLES)
        self.first = nn.Parameter(torch.empty(tasks, HIDDEN, features))
        self.first_bias = nn.Parameter(torch.zeros(tasks, HIDDEN))
        self.second = nn.Parameter(torch.empty(tasks, 10, HIDDEN))
        self.second_bias = nn.Parameter(torch.zeros(tasks, 10))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weights in (self.first, self.second):
            nn.init.normal_(weights, std=weights.shape[2] ** -0.5)
        for bias in (self.first_bias, self.second_bias):
            nn.init.zeros_(bias)

    def forward(self, inputs: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(rows, tasks, features) to (rows, tasks, 10), mixed by A of each layer."""
        weights = torch.einsum("kj,jhf->khf", first, self.first)
        hidden = torch.tanh(torch.einsum("rkf,khf->rkh", inputs, weights) + first @ self.first_bias)
        weights = torch.einsum("kj,joh->koh", second, self.second)
        return torch.einsum("rkh,koh->rko", hidden, weights) + second @ self.second_bias


def loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    first, second = matrices(tuned)
    outputs = forward(batch.inputs, first, second)
    return nn.functional.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten())


def matrices(tuned: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A_l as they are tuned, or (1 - s) I + s/K by one s per layer."""
    if "share" not in tuned:
        return tuned["first"], tuned["second"]
    tasks, share = len(ANGLES), tuned["share"]
    eye = torch.eye(tasks, dtype=share.dtype, device=share.device)
    first, second = ((1.0 - s) * eye + s / tasks for s in share)
    return first, second


def build(seed: int = 0, train: int = 50, start: float = 0.0, one: bool = False) -> Problem:
    """`train` images for each task; A begins as (1 - start) I + start/K. `one`: tunes s alone."""
    split = load_data("digits", {"train": 800, "valid": 400, "test": 597, "seed": seed})
    tasks = len(ANGLES)
    eye = torch.eye(tasks)
    matrix = (1.0 - start) * eye + start / tasks
    tuned = {name: Hyperparameter(matrix.clone()) for name in NAMES}
    share = {"share": Hyperparameter(torch.full((2,), start))}
    model = Tasks(64)
    assert split.test is not None
    sizes = ((split.train, train), (split.valid, 80), (split.test, 119))
    parts = [turned(*part, rows=rows) for part, rows in sizes]
    return Problem(
        model=model,
        train=parts[0],
        valid=parts[1],
        test=parts[2],
        inner_loss=loss,
        outer_loss=loss,
        hyperparameters=share if one else tuned,
        initialize="reset",
    )


def turned(inputs: Tensor, targets: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Other images for every task, turned by its angle: (rows, tasks, 64) and (rows, tasks)."""
    images, labels = [], []
    for task, angle in enumerate(ANGLES):
        own = slice(task * rows, (task + 1) * rows)
        images.append(rotate(inputs[own].view(-1, 1, 8, 8), angle).flatten(1))
        labels.append(targets[own])
    return torch.stack(images, dim=1), torch.stack(labels, dim=1)


def rotate(images: Tensor, degrees: float) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin, 0 * cos]), torch.stack([sin, cos, 0 * cos])])
    grid = nn.functional.affine_grid(
        turn.expand(len(images), 2, 3), list(images.shape), align_corners=False
    )
    return nn.functional.grid_sample(images, grid, align_corners=False)
