"""Optimizers of torch.optim with a group for every layer, and those that torch does not have."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from drmad_workers import TrainingConfig


class Rates(NamedTuple):
    """Learning rate, momentum (β₁ of Adam) and weight decay of a layer in one step."""

    learning_rate: float
    momentum: float
    weight_decay: float


class DampedSGD(torch.optim.Optimizer):
    """v' = γ v - (1 - γ) (g + ω w), w' = w + α v', as in 1502.03492."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                gradient = weights.grad + group["weight_decay"] * weights
                velocity = self.state[weights].get("velocity", torch.zeros_like(weights))
                decay = group["momentum"]
                velocity = decay * velocity - (1.0 - decay) * gradient
                self.state[weights]["velocity"] = velocity
                weights.add_(group["lr"] * velocity)


class Lion(torch.optim.Optimizer):
    """w' = w - α (sign(β₁ m + (1 - β₁) g) + ω w), m' = β₂ m + (1 - β₂) g, as in 2302.06675."""

    def __init__(self, groups: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            first, second = group["betas"]
            for weights in group["params"]:
                moment = self.state[weights].get("moment", torch.zeros_like(weights))
                along = (first * moment + (1.0 - first) * weights.grad).sign()
                weights.sub_(group["lr"] * (along + group["weight_decay"] * weights))
                self.state[weights]["moment"] = second * moment + (1.0 - second) * weights.grad


class NormalisedSGD(torch.optim.Optimizer):
    """v' = γ v + g + ω w, w' = w - α v' / √(mean v'² + 0.01) for each parameter.

    The rule that tests state as a problem's own.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weights in group["params"]:
                velocity = self.state[weights].get("velocity", torch.zeros_like(weights))
                velocity = group["momentum"] * velocity + weights.grad
                velocity += group["weight_decay"] * weights
                self.state[weights]["velocity"] = velocity
                weights.sub_(group["lr"] * velocity / (velocity**2).mean().add(0.01).sqrt())


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon for matrices, and its AdamW for the other parameters."""

    def __init__(self, groups: Iterable[dict[str, Any]], training: TrainingConfig) -> None:
        defaults = {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0}
        super().__init__(groups, defaults)
        self._parts = [
            torch.optim.Muon(
                group["params"], nesterov=training.nesterov, eps=training.eps, momentum=0.5
            )
            if group["params"][0].ndim == 2
            else torch.optim.AdamW(group["params"], betas=training.betas, eps=training.eps)
            for group in self.param_groups
        ]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """In the type of the weights, where torch orthogonalises in bfloat16."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
            for group, part in zip(self.param_groups, self._parts, strict=True):
                names = ["lr", "weight_decay"]
                names += ["momentum"] if isinstance(part, torch.optim.Muon) else []
                part.param_groups[0].update({name: group[name] for name in names})
                part.step()  # type: ignore[no-untyped-call]


def optimizer_of(
    training: TrainingConfig, parameters: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimizer that the training names, with a group for every parameter."""
    groups = [{"params": [parameter]} for parameter in parameters]
    if training.optimizer == "damped_sgd":
        return DampedSGD(groups)
    if training.optimizer == "custom":
        return NormalisedSGD(groups)
    if training.optimizer == "muon":
        return MuonAndAdamW(groups, training)
    if training.optimizer == "lion":
        return Lion(groups, training.betas)
    if training.optimizer == "rmsprop":
        momentum = training.momentum
        return torch.optim.RMSprop(
            groups, alpha=training.smoothing, eps=training.eps, momentum=momentum
        )
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum, nesterov=training.nesterov)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, betas=training.betas, eps=training.eps)


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[Rates]) -> None:
    """Sets the rates of every group for the next step."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"], group["weight_decay"] = rate.learning_rate, rate.weight_decay
        if "betas" in group:
            group["betas"] = (rate.momentum, group["betas"][1])
        else:
            group["momentum"] = rate.momentum


def clip_gradients(training: TrainingConfig, parameters: Sequence[nn.Parameter]) -> None:
    """Clips as a training loop does, before the step."""
    if training.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, training.clip_norm)
    if training.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, training.clip_value)
