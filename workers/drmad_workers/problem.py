"""What a user states: the model, its data, its losses and its own hyperparameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from drmad_workers.errors import ProblemError

Transform = Literal["identity", "exp", "sigmoid"]


@dataclass(frozen=True)
class Hyperparameter:
    """A tensor of continuous hyperparameters that the user's own loss takes.

    Attributes:
        init: λ before the first meta-iteration, any shape.
        transform: the loss is given transform(λ); the outer optimizer moves λ.
        lower, upper: bounds of λ itself (before the transform), or None.
    """

    init: Tensor
    transform: Transform = "identity"
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Some examples, and where they stand in their data set.

    Attributes:
        inputs: shape (rows, ...).
        targets: shape (rows, ...).
        index: shape (rows,), int64: positions in the data set.
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor


Data = Any
"""A pair (inputs, targets) of tensors, or a map-style data set of (input, target). An item must
be the same whenever it is read, or the backward pass would see other data than the training."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> (rows,)"""

FullLoss = Callable[[nn.Module, Mapping[str, Tensor], Batch], Tensor]
"""(forward, hyperparameters, batch) -> (): `forward` is the model at the current weights,
`hyperparameters` are the transformed values by name."""


@dataclass
class Problem:
    """A model to train and an objective to tune its hyperparameters by.

    The engine trains `model` in place, its trainable parameters being views into one vector, and
    leaves it with the weights that it was given; trained weights come back with the results.
    Parameters with `requires_grad=False` stay as they are. Buffers (running statistics) are
    carried through training and held constant by the derivative.

    Attributes:
        model: the elementary parameters are those of `model.parameters()` that require a gradient.
        train, valid, test: see `Data`; `test` is only reported, never used to choose.
        loss: loss of every example, (outputs, targets) -> (rows,).
        inner_loss: full control of the training loss in the place of the mean of `loss`. It must
            be a mean over the rows of the batch (a joined minibatch stands for several).
        outer_loss: the held-out objective where it is not the mean of `loss`; likewise a mean.
        hyperparameters: the user's own tensors, by name, given to both full losses.
        metrics: name -> (outputs, targets) -> (), a mean over the rows; reported for the
            validation and the test data as `validation_<name>` and `test_<name>`.
        diagnostics: name -> function of the transformed values of all hyperparameters by name;
            None leaves the figure out.
        initialize: draws fresh weights w_0, in place. By default every module's
            `reset_parameters` is called; parameters that nothing resets keep the values given.
            For a pretrained model hand over a function that does nothing.
    """

    model: nn.Module
    train: Data
    valid: Data
    test: Data | None = None
    loss: Loss = field(default_factory=lambda: nn.CrossEntropyLoss(reduction="none"))
    inner_loss: FullLoss | None = None
    outer_loss: FullLoss | None = None
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict)
    metrics: Mapping[str, Loss] = field(default_factory=dict)
    diagnostics: Mapping[str, Callable[[Mapping[str, Tensor]], float | None]] = field(
        default_factory=dict
    )
    initialize: Callable[[nn.Module], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ProblemError(
                f"model must be a torch.nn.Module, got {type(self.model).__name__}", "model"
            )
        for name, hyperparameter in self.hyperparameters.items():
            if not isinstance(hyperparameter, Hyperparameter):
                raise ProblemError(
                    f"hyperparameter {name!r} must be a Hyperparameter(init=...), "
                    f"got {type(hyperparameter).__name__}",
                    f"hyperparameters.{name}",
                )


def error_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of rows whose largest output is not the target; (rows, classes) and (rows,)."""
    return (outputs.argmax(dim=1) != targets).to(torch.float64).mean()
