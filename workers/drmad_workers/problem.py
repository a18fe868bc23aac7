"""The statement of a problem: a model, its data, its losses and its own hyperparameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from drmad_workers import trees
from drmad_workers.errors import ProblemError
from drmad_workers.update_rule import UpdateRule

Transform = Literal["identity", "exp", "sigmoid"]


_PARALLEL = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


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
        content: what the collate function makes of the examples: any nested structure of tensors
            and plain values. A tuple or list of two is a pair (inputs, targets).
        index: the positions in the data set, shape (rows,), int64.
    """

    content: Any
    index: Tensor

    @property
    def inputs(self) -> Any:
        """The inputs of a pair, shape (rows, ...), or a structure of them."""
        return self._part(0, "inputs")

    @property
    def targets(self) -> Any:
        """The targets of a pair, shape (rows, ...), or a structure of them."""
        return self._part(1, "targets")

    def with_inputs(self, inputs: Any) -> "Batch":
        """The same targets with other inputs; the batch must be a pair."""
        return Batch((inputs, self.targets), self.index)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by an expression for each such as "batch.inputs['mask']"."""
        parts = {"batch.content": self.content, "batch.index": self.index}
        if is_pair(self.content):
            parts |= {"batch.inputs": self.inputs, "batch.targets": self.targets}
            del parts["batch.content"]
        found = (each for name, part in parts.items() for each in trees.leaves(part, name))
        return {name: leaf for name, leaf in found if isinstance(leaf, Tensor)}

    def _part(self, number: int, name: str) -> Any:
        if not is_pair(self.content):
            raise ProblemError(
                f"batch.{name} needs minibatches that are pairs (inputs, targets), got "
                f"{described(self.content)}: take its parts from batch.content",
                "problem",
            )
        return self.content[number]


def is_pair(content: Any) -> bool:
    """Whether the content of a minibatch is a pair (inputs, targets)."""
    return isinstance(content, tuple | list) and len(content) == 2


def described(value: Any) -> str:
    """The type of a value with its size or keys, for a message."""
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


Data = Any
"""Tensors or NumPy arrays with one row per example, or a map-style data set of items of any
structure. The tensors are a pair (inputs, targets), or any structure of them: a dict, a tuple, a
dataclass. What an item or the collate function draws from the global generators of torch, NumPy
and Python is a function of (seed, meta-iteration, replica, step, row) in training, and of (seed,
row) on held-out data, so that the backward pass reads what the forward pass read. Nothing else may
change between two reads."""

Collate = Callable[[list[Any]], Any]
"""A list of items -> the content of a minibatch."""

Loss = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> (rows,) where minibatches are pairs, else (outputs, content) -> (rows,)."""

Initialize = Callable[[nn.Module], None] | Literal["reset"] | None
"""What draws w_0 in place; see Problem."""

Column = Sequence[str | int] | Tensor
"""One string or one integer for every training row, as a list, a tensor, an array or a Series."""

FullLoss = Callable[[nn.Module, Mapping[str, Tensor], Batch], Tensor]
"""(forward, hyperparameters, batch) -> (): `forward` is the model at the current weights,
`hyperparameters` are the transformed values by name."""


@dataclass(frozen=True)
class AllRows:
    """A metric that is no mean over the rows, such as a root of a mean or a rank statistic.

    The engine keeps the outputs and the targets of all held-out rows for it, or what `rows` takes
    of them.

    Attributes:
        measure: (outputs, targets) of all rows -> (); with `rows`, the joined values -> ().
        rows: (outputs, targets or content, as `loss`) -> (rows, ...), what is kept of a minibatch.
            Minibatches that are no pair need it.
    """

    measure: Callable[..., Tensor]
    rows: Loss | None = None


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
        loss: the loss of every example, see `Loss`.
        inner_loss: the training loss, if it is not the mean of `loss`. It must be a mean over the
            rows of the batch, because minibatches may be joined.
        outer_loss: the held-out objective, if it is not the mean of `loss`; likewise a mean.
        hyperparameters: the user's own tensors by name, which both full losses take.
        columns: what is known of every training row beside its inputs, by name, such as the source
            it comes from; `SampleWeight` forms its groups by them.
        metrics: name -> (outputs, targets or content, as `loss`) -> (), a mean over the rows, or an
            AllRows; reported for the validation and the test data as `validation_<name>` and
            `test_<name>`.
        diagnostics: name -> function of the transformed values of all hyperparameters by name; a
            result of None is not reported.
        initialize: the weights w_0 of every training run. None takes the weights and buffers of
            `model` as they are. "reset" draws new ones by every module's `reset_parameters`;
            parameters that no module resets keep their values. A function draws in place. Each
            draw is under a seed of the job, the replica and the meta-iteration.
        collate_fn: makes the content of a minibatch from a list of items, as for a DataLoader; it
            may pad them. By default torch's `default_collate`. It also joins several minibatches
            into one, so that a row's loss must not depend on the padding.
        apply: (model, content) -> outputs. By default a pair applies the model to its inputs, and
            a mapping to the entries that the model's forward takes: mappings are keyword
            arguments, tuples and lists are positional ones.
        targets: content -> the classes of the rows, shape (rows,), int64, for minibatches that
            are no pair; weights of classes need it.
        optimizer: the inner optimizer, if the training states optimizer "custom".
        describe: position of a training row -> a short text for it, which an attribution shows
            beside the row, such as the sentence itself.
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
    initialize: Initialize = None
    collate_fn: Collate | None = None
    apply: Callable[[nn.Module, Any], Any] | None = None
    targets: Callable[[Any], Tensor] | None = None
    optimizer: UpdateRule | None = None
    describe: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ProblemError(
                f"model must be a torch.nn.Module, got {type(self.model).__name__}", "model"
            )
        _require_whole(self.model)
        if not (self.initialize in (None, "reset") or callable(self.initialize)):
            raise ProblemError(
                "initialize must be None (training starts from the weights that the model has), "
                '"reset" (every module draws new ones) or a function that draws in place, got '
                f"{self.initialize!r}",
                "initialize",
            )
        for part in ("train", "valid", "test"):
            setattr(self, part, without_arrays(getattr(self, part), part))
        for field_name in ("collate_fn", "apply", "targets", "describe"):
            stated = getattr(self, field_name)
            if not (stated is None or callable(stated)):
                raise ProblemError(
                    f"{field_name} must be a function, got {described(stated)}", field_name
                )
        if not (self.optimizer is None or isinstance(self.optimizer, UpdateRule)):
            raise ProblemError(
                f"optimizer must be an UpdateRule, got {described(self.optimizer)}: state the "
                "optimizers of the table by training.optimizer",
                "optimizer",
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


def _require_whole(model: nn.Module) -> None:
    """Raises ProblemError if another library divides the model's weights or its minibatches."""
    for name, module in model.named_modules():
        if type(module).__name__ in _PARALLEL:
            raise ProblemError(
                f"model must not be divided among processes or devices, got "
                f"{type(module).__name__} at {name or 'its root'}: hand over the module inside; "
                "replicas.workers splits its minibatches, and weights must fit on each worker",
                "model",
            )
    for name, parameter in model.named_parameters():
        if type(parameter).__name__ == "DTensor" or hasattr(parameter, "full_tensor"):
            raise ProblemError(
                f"model must hold its weights whole, got the sharded tensor {name} (fully_shard): "
                "hand over the module before it is sharded; replicas.workers splits its "
                "minibatches, and weights must fit on each worker",
                "model",
            )


def without_arrays(data: Any, name: str) -> Any:
    """The data with tensors in the place of the NumPy arrays that its columns are.

    Columns are one array, or a pair, a tuple or a mapping of arrays. The tensors share their memory
    where it can be written to.
    """
    is_structure = isinstance(data, tuple | Mapping) or (isinstance(data, list) and len(data) == 2)
    if not (isinstance(data, np.ndarray) or is_structure):
        return data
    if not any(isinstance(leaf, np.ndarray) for _, leaf in trees.leaves(data)):
        return data

    def converted(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        try:
            return torch.from_numpy(leaf if leaf.flags.writeable else leaf.copy())
        except TypeError as error:
            raise ProblemError(
                f"arrays of {name} must hold numbers, got {leaf.dtype}: encode them as integers",
                name,
            ) from error

    return trees.mapped(converted, data)


def error_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of rows whose largest output is not the target; (rows, classes) and (rows,)."""
    return (outputs.argmax(dim=1) != targets).to(torch.float64).mean()
