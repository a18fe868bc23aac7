"""The statement of a problem: a model, its data, its losses and its own hyperparameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from drmad_workers.errors import ProblemError

Transform = Literal["identity", "exp", "sigmoid"]


@dataclass(frozen=True)
class Hyperparameter:
    """A tensor of continuous hyperparameters that the user's own losses take.

    Attributes:
        init: λ before the first meta-iteration, any shape.
        transform: the map from λ to the value that the losses take; the outer optimizer moves λ.
        lower, upper: bounds of λ itself (before the transform), or None.
    """

    init: Tensor
    transform: Transform = "identity"
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Some examples with their positions in the data set.

    Attributes:
        inputs: shape (rows, ...).
        targets: shape (rows, ...).
        index: the positions in the data set, shape (rows,), int64.
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor


Data = Any
"""A pair (inputs, targets) of tensors, or a map-style data set of (input, target). Every read of an
item must return the same values, because the backward pass reads the items again; what an item
draws from the global generators of torch, NumPy and Python is seeded by its row."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> (rows,)"""

Column = Sequence[str | int] | Tensor
"""One string or one integer for every training row, as a list, a tensor, an array or a Series."""

FullLoss = Callable[[nn.Module, Mapping[str, Tensor], Batch], Tensor]
"""(forward, hyperparameters, batch) -> (): `forward` is the model at the current weights,
`hyperparameters` are the transformed values by name."""


@dataclass(frozen=True)
class AllRows:
    """A metric that is no mean over the rows, such as a root of a mean or a rank statistic.

    The engine keeps the outputs of all held-out rows for it.

    Attributes:
        measure: (outputs, targets) of all rows -> ().
    """

    measure: Loss


@dataclass
class Problem:
    """A model to train, and an objective by which its hyperparameters are tuned.

    The engine trains `model` in place, with its trainable parameters as views into one vector.
    Afterwards the model has the weights that it was given; the results contain the trained
    weights. Parameters with `requires_grad=False` do not change. What training
    changes beside the weights (running statistics, a teacher in buffers, counters) is a part of the
    state: it is restored in the backward pass, and derivatives pass through its updates.

    Attributes:
        model: the model, whose elementary parameters are those that require a gradient.
        train, valid, test: see `Data`; `test` is reported, and never used to choose.
        loss: the loss of every example, (outputs, targets) -> (rows,).
        inner_loss: the training loss, if it is not the mean of `loss`. It must be a mean over the
            rows of the batch, because minibatches may be joined.
        outer_loss: the held-out objective, if it is not the mean of `loss`; likewise a mean.
        hyperparameters: the user's own tensors by name, which both full losses take.
        columns: what is known of every training row beside its inputs, by name, such as the source
            it comes from; `SampleWeight` forms its groups by them.
        metrics: name -> (outputs, targets) -> (), a mean over the rows, or an AllRows; reported for
            the validation and the test data as `validation_<name>` and `test_<name>`.
        diagnostics: name -> function of the transformed values of all hyperparameters by name; a
            result of None is not reported.
        initialize: draws new weights w_0, in place. By default every module's
            `reset_parameters` is called, and parameters that no module resets keep their values.
            A pretrained model needs a function that does nothing.
    """

    model: nn.Module
    train: Data
    valid: Data
    test: Data | None = None
    loss: Loss = field(default_factory=lambda: nn.CrossEntropyLoss(reduction="none"))
    inner_loss: FullLoss | None = None
    outer_loss: FullLoss | None = None
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)
    metrics: Mapping[str, Loss | AllRows] = field(default_factory=dict)
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
            if hyperparameter.init.is_complex():
                raise ProblemError(
                    f"hyperparameter {name!r} must be real numbers, got {hyperparameter.init.dtype}"
                    ": tune the real and the imaginary parts",
                    f"hyperparameters.{name}",
                )


def error_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of rows whose largest output is not the target; (rows, classes) and (rows,)."""
    return (outputs.argmax(dim=1) != targets).to(torch.float64).mean()
