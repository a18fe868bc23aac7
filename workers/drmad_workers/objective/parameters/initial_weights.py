"""The initial weights w_0, which are drawn under a seed and scaled by hyperparameters."""

from collections.abc import Mapping

import torch
from torch import Tensor

from drmad_workers.hyperparameters.init_scale import BoundInitScale
from drmad_workers.objective.objective import Objective


def initialize(objective: Objective, seed: int) -> None:
    """Draws w_0 as the problem states under the seed, and applies the initial scales."""
    objective.parameters.draw(seed, objective.problem.initialize)
    with torch.no_grad():
        for scale in scales_of(objective):
            scale.multiply(objective.values.by_name[scale.name], objective.parameters.weights)


def scales_of(objective: Objective) -> list[BoundInitScale]:
    return [b for b in objective.values.bound.values() if isinstance(b, BoundInitScale)]


def add_initial(objective: Objective, d_weights: Tensor) -> None:
    """dλ += (∂w_0/∂λ)ᵀ dw for dw of shape (P,); w_0 must stand in the parameters."""
    for scale in scales_of(objective):
        value = objective.values.by_name[scale.name]
        by_scale = scale.gather(objective.parameters.weights * d_weights) / value
        objective.sums.totals[scale.name].add_(by_scale)


def initial_along(objective: Objective, values: Mapping[str, Tensor]) -> Tensor:
    """∂w_0 along directions e of the values, shape (D, P); w_0 must stand in the parameters."""
    directions = next(iter(values.values()))
    weights = objective.parameters.weights
    out = weights.new_zeros(len(directions), len(weights))
    for scale in scales_of(objective):
        relative = values[scale.name] / objective.values.by_name[scale.name]
        scale.spread(relative, weights, out)
    return out
