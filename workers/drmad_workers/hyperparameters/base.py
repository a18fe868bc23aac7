"""What every kind of hyperparameter shares: how it is asked for, and what it becomes.

A kind (`L2`, `LearningRate`, `SampleWeight`, ...) is what a user asks for. Bound to a model and its
data it becomes a `BoundHyperparameter`: a tensor λ with a name, a shape, a transform and bounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from drmad_workers.data.examples import Examples
from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.groups import ParameterGroup
from drmad_workers.problem import Problem, Transform


class Group(NamedTuple):
    """A labelled segment of the flattened hyperparameter tensor."""

    label: str
    start: int
    stop: int


@dataclass(frozen=True)
class Slot:
    """The place of one parameter tensor in the flat weights, and the module that holds it."""

    name: str
    start: int
    stop: int
    shape: torch.Size
    module: nn.Module


def slots_of(model: nn.Module) -> list[Slot]:
    """The trainable parameters in the order of `model.parameters()`, shared ones once."""
    slots: list[Slot] = []
    seen: set[int] = set()
    start = 0
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                stop = start + parameter.numel()
                slots.append(Slot(name, start, stop, parameter.shape, module))
                start = stop
    return slots


@dataclass(frozen=True)
class Setting:
    """What a kind is bound to: the problem, and how it is trained.

    Attributes:
        slots: the parameter tensors of the problem's model.
        train: the training examples.
        steps, learning_rate, momentum, weight_decay: T, α, γ (of Adam, β₁) and ω of the training.
        dtype: the type of the hyperparameters.
        seed: seeds what a kind draws.
        groups: the groups of the training.
    """

    problem: Problem
    slots: Sequence[Slot]
    train: Examples
    steps: int
    learning_rate: float
    momentum: float
    dtype: torch.dtype
    seed: int = 0
    weight_decay: float = 0.0
    groups: Sequence[ParameterGroup] = ()


@dataclass(frozen=True)
class BoundHyperparameter:
    """A tensor λ of hyperparameters of one problem; it enters the losses as transform(λ).

    Attributes:
        name: the key under which values and hypergradients are exchanged.
        initial: λ before the first meta-iteration.
        transform: maps λ to the value that the loss takes.
        lower, upper: bounds of λ itself, or None.
        groups: labelled segments of the flattened λ, such as one per layer.
        pull_groups: the group of every entry, in the shape of λ, int64, -1 for none, if the outer
            regularization pulls each entry towards the mean of its group; None pulls towards the
            start.
    """

    name: str
    initial: Tensor
    transform: Transform
    lower: float | None
    upper: float | None
    groups: Sequence[Group]
    pull_groups: Tensor | None = field(default=None, kw_only=True)

    what: ClassVar[str] = "hyperparameter"
    """The noun for it in a message."""

    @property
    def shape(self) -> torch.Size:
        return self.initial.shape

    def value(self, raw: Tensor) -> Tensor:
        """transform(λ)."""
        if self.transform == "exp":
            return raw.exp()
        if self.transform == "sigmoid":
            return raw.sigmoid()
        return raw.clone()

    def chain(self, value: Tensor, gradient: Tensor) -> Tensor:
        """The derivative by λ, from the derivative by the value."""
        if self.transform == "exp":
            return gradient * value
        if self.transform == "sigmoid":
            return gradient * value * (1.0 - value)
        return gradient


@dataclass(frozen=True)
class BoundTensor(BoundHyperparameter):
    """A tensor that the user's own losses take by name."""


class Kind(Protocol):
    """What a user asks to tune."""

    @property
    def name(self) -> str: ...

    def bind(self, setting: Setting) -> BoundHyperparameter: ...


def require_one_of(allowed: Sequence[str], given: str, name: str, option: str = "per") -> None:
    if given not in allowed:
        raise ProblemError(
            f"{name}: {option} must be one of {', '.join(allowed)}, got {given!r}",
            f"hyperparameters.{name}.{option}",
        )


def within_bounds(bound: BoundHyperparameter) -> BoundHyperparameter:
    """Returns `bound`; raises ProblemError when its initial values lie outside its bounds."""
    low = -math.inf if bound.lower is None else bound.lower
    high = math.inf if bound.upper is None else bound.upper
    if bool((bound.initial < low).any() or (bound.initial > high).any()):
        raise ProblemError(
            f"{bound.name} must start between its bounds, [{low}, {high}], got values from "
            f"{float(bound.initial.min()):.4g} to {float(bound.initial.max()):.4g}",
            f"hyperparameters.{bound.name}",
        )
    return bound
