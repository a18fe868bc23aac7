"""Outer updates from known hypergradients, for the tests of the outer loop."""

import torch
from torch import Tensor

from drmad_workers import MetaConfig, MetaState, meta_update

START = {"l2": torch.tensor([0.5, -1.0, 2.0]), "mixing": torch.tensor([[1.0, -3.0]])}


def gradients(iteration: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(iteration)
    return {name: torch.randn(value.shape, generator=draw) for name, value in START.items()}


def run(state: MetaState, config: MetaConfig, stop: int) -> MetaState:
    for iteration in range(state.iteration, stop):
        state = meta_update(state, 1.0 / (1 + iteration), gradients(iteration), config)
    return state
