"""Ten training images, one per class, initialised with noise or with real images of MNIST."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from drmad_workers import Problem
from drmad_workers.catalog import Places, load_data
from drmad_workers.problem import error_rate


def build(data: dict[str, Any], roots: list[str], begin: str = "noise", draw: int = 0) -> Problem:
    """`begin`: noise, the class means, or the number `draw` of the choices of ten real images."""
    options = {name: value for name, value in data.items() if name != "name"}
    split = load_data(data["name"], options, Places([Path(root) for root in roots]))
    inputs, targets = split.train
    if begin == "noise":
        images = 0.1 * torch.randn(10, inputs.shape[1], generator=torch.Generator().manual_seed(0))
    elif begin == "means":
        images = torch.stack([inputs[targets == label].mean(dim=0) for label in range(10)])
    else:
        generator = torch.Generator().manual_seed(draw)
        rows = []
        for label in range(10):
            own = (targets == label).nonzero()[:, 0]
            rows.append(own[torch.randint(len(own), (), generator=generator)])
        images = inputs[torch.stack(rows)]
    return Problem(
        model=nn.Linear(inputs.shape[1], 10),
        train=(images, torch.arange(10)),
        valid=split.valid,
        test=split.test,
        metrics={"error": error_rate},
        initialize="reset",
    )
