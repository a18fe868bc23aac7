"""ResNet-8 with batch normalization, and small images to train it on."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from hypergradient_costs.resnet import Block


def resnet8(width: int = 8, classes: int = 4) -> nn.Module:
    """Three blocks of two convolutions between a first convolution and a linear layer."""
    widths = (width, width, 2 * width, 4 * width)
    blocks = [
        Block(before, after, 2 if after > before else 1) for before, after in pairwise(widths)
    ]
    stem = (nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))
    return nn.Sequential(*stem, *blocks, *head)


def images(rows: int, size: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise around a pattern of each class: (rows, 3, size, size) and classes, shape (rows,)."""
    draw = torch.Generator().manual_seed(seed)
    patterns = torch.randn(classes, 3, size, size, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(classes, (rows,), generator=draw)
    return patterns[targets] + torch.randn(rows, 3, size, size, generator=draw), targets
