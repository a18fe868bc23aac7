"""Training alone of a ResNet-18-sized net, beside a plain loop."""

import argparse
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers import LearningRate, Problem, Replay, TrainingConfig, Tuner
from drmad_workers.data.minibatches import Minibatches
from hypergradient_costs.measurement import lengths, timed
from hypergradient_costs.mnist_mlp import GAMMA


class Block(nn.Module):
    """Two convolutions beside a shortcut, of ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.beside: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            projection = nn.Conv2d(before, after, 1, stride, bias=False)
            self.beside = nn.Sequential(projection, nn.BatchNorm2d(after))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(self.body(inputs) + self.beside(inputs))


def resnet18(width: int = 64) -> nn.Module:
    """ResNet-18 for 32 x 32 images, 11.2 million weights at its own width."""
    widths = [width * factor for factor in (1, 1, 1, 2, 2, 4, 4, 8, 8)]
    blocks = [
        Block(before, after, 2 if after > before else 1) for before, after in pairwise(widths)
    ]
    stem = (nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, 10))
    return nn.Sequential(*stem, *blocks, *head)


def resnet(options: argparse.Namespace) -> dict[str, Any]:
    """Training alone, of a ResNet-18-sized net on random 32 x 32 images, beside a plain loop."""
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    steps, rows = lengths(options, (2,), (200,) if gpu else (4,))[0], 128 if gpu else 16
    draw = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(count, 3, 32, 32, generator=draw)
        return images, torch.randint(10, (count,), generator=draw)

    loss = nn.CrossEntropyLoss(reduction="none")
    problem = Problem(resnet18(), part(4 * rows), part(rows), loss=loss, initialize="reset")
    training = TrainingConfig("sgd", steps, rows, 0.01, GAMMA)
    tuner = Tuner(problem, [LearningRate()], training, Replay(), device=device)
    values = tuner.initial_values()
    model = resnet18().to(device)
    minibatches = Minibatches(tuner.train_examples, rows, (0, 0, 0))

    def plain() -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=GAMMA)
        for step in range(steps):
            batch = minibatches.join(step)
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(batch.inputs), batch.targets).mean())
            optimizer.step()

    taken: dict[str, list[float]] = {"plain": [], "drmad": []}
    for _ in range(3):
        taken["plain"].append(timed(plain, device))
        taken["drmad"].append(timed(partial(tuner.train, values), device))
    return {
        "steps": steps,
        "rows": rows,
        "weights": sum(p.numel() for p in model.parameters()),
        "plain_seconds": median(taken["plain"]),
        "ratio": median(taken["drmad"]) / median(taken["plain"]),
    }
