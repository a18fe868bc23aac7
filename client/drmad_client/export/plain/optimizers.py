"""Steps of the optimizers, at rates of their own for every parameter and step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from drmad_client.export.plain.statement import StepRates, square_root
from drmad_client.export.plain.uses import USES

Rule = Callable[[int, Tensor, Sequence[Tensor], Tensor, StepRates], Any]
"""(step, weights, memory, gradient, rates) -> (weights, memory) after the step."""


def momentum_step(
    step: int, weights: Tensor, memory: Sequence[Tensor], gradient: Tensor, rates: StepRates
) -> Any:
    """v' = γ v - g, or γ v - (1 - γ) g if it is damped; then w' = w + α v'."""
    rate, momentum, decay = rates
    gradient = gradient + decay * weights
    if "damped_sgd" in USES:
        velocity = momentum * memory[0] - (1.0 - momentum) * gradient
    else:
        velocity = momentum * memory[0] - gradient
    if "nesterov" in USES:
        return weights + rate * (momentum * velocity - gradient), (velocity,)
    return weights + rate * velocity, (velocity,)


def lion_rule(second_decay: float) -> Rule:
    """Lion, as its paper states it."""

    def update(
        step: int, weights: Tensor, memory: Sequence[Tensor], gradient: Tensor, rates: StepRates
    ) -> Any:
        rate, momentum, decay = rates
        (moment,) = memory
        along = (momentum * moment + (1.0 - momentum) * gradient).sign() + decay * weights
        return weights - rate * along, (second_decay * moment + (1.0 - second_decay) * gradient,)

    return update


def muon_rule(nesterov: bool, betas: Sequence[float], epsilon: float) -> Rule:
    """Muon for matrices, AdamW for all other parameters."""

    def update(
        step: int, weights: Tensor, memory: Sequence[Tensor], gradient: Tensor, rates: StepRates
    ) -> Any:
        rate, momentum, decay = rates
        first, second = memory
        shrunk = weights * (1.0 - rate * decay)
        if weights.ndim == 2:
            first = momentum * first + (1.0 - momentum) * gradient
            mean = (1.0 - momentum) * gradient + momentum * first if nesterov else first
            size = math.sqrt(max(1.0, len(weights) / weights.shape[1]))
            return shrunk - size * rate * orthogonalised(mean, epsilon), (first, second)
        one, other = betas
        first = one * first + (1.0 - one) * gradient
        second = other * second + (1.0 - other) * gradient.square()
        scale = square_root(second / (1.0 - other ** (step + 1))) + epsilon
        return shrunk - rate * first / (1.0 - one ** (step + 1)) / scale, (first, second)

    return update


def orthogonalised(matrix: Tensor, epsilon: float) -> Tensor:
    """The matrix with its singular values moved towards 1, by five Newton-Schulz iterations."""
    tall = len(matrix) > matrix.shape[1]
    wide: Tensor = matrix.mT if tall else matrix
    wide = wide / torch.linalg.vector_norm(wide).clamp_min(epsilon)
    for _ in range(5):
        gram = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    out: Tensor = wide.mT if tall else wide
    return out


class RuleOptimizer:
    """Takes the steps of a rule, each parameter by itself."""

    def __init__(self, parameters: Sequence[Tensor], rule: Rule, memory_rows: int) -> None:
        self._parameters, self._rule = parameters, rule
        self._memory: list[Sequence[Tensor]] = [
            [torch.zeros_like(each) for _ in range(memory_rows)] for each in parameters
        ]

    @torch.no_grad()
    def step(self, number: int, rates: Sequence[StepRates]) -> None:
        for place, (parameter, own) in enumerate(zip(self._parameters, rates, strict=True)):
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            after, memory = self._rule(number, parameter, self._memory[place], gradient, own)
            self._memory[place] = [each.clone() for each in memory]
            parameter.copy_(after)


class TorchOptimizer:
    """Takes the steps of an optimizer of torch, each parameter in a group of its own."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def step(self, number: int, rates: Sequence[StepRates]) -> None:
        for group, own in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"], group["weight_decay"] = own.learning_rate, own.weight_decay
            if "rmsprop" in USES:
                group["momentum"] = own.momentum
            else:
                group["betas"] = (own.momentum, group["betas"][1])
        self._optimizer.step()


def optimizer_of(settings: Mapping[str, Any], parameters: Sequence[Tensor], own: Any = None) -> Any:
    """The optimizer of the recipe; `own` is that of the problem, an UpdateRule."""
    if "adam" in USES:
        groups = [{"params": [parameter]} for parameter in parameters]
        adam = torch.optim.Adam(groups, betas=tuple(settings["betas"]), eps=settings["eps"])
        return TorchOptimizer(adam)
    if "adamw" in USES:
        groups = [{"params": [parameter]} for parameter in parameters]
        adamw = torch.optim.AdamW(groups, betas=tuple(settings["betas"]), eps=settings["eps"])
        return TorchOptimizer(adamw)
    if "rmsprop" in USES:
        groups = [{"params": [parameter]} for parameter in parameters]
        rms = torch.optim.RMSprop(groups, alpha=settings["smoothing"], eps=settings["eps"])
        return TorchOptimizer(rms)
    if "lion" in USES:
        return RuleOptimizer(parameters, lion_rule(settings["betas"][1]), 1)
    if "muon" in USES:
        rule = muon_rule(settings["nesterov"], settings["betas"], settings["eps"])
        return RuleOptimizer(parameters, rule, 2)
    if "custom" in USES:
        if own is None:
            raise ValueError("your Problem must state its optimizer, as it did in the job")
        return RuleOptimizer(parameters, own.update, own.memory_rows)
    return RuleOptimizer(parameters, momentum_step, 1)
