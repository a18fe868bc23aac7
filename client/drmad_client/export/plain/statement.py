"""What a problem states: a model, its data and its losses, and how they are applied."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate

from drmad_client.export.plain.uses import USES


class ProblemError(Exception):
    """The problem cannot be used as it is stated."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)


@dataclass(frozen=True)
class Hyperparameter:
    """A tensor of hyperparameters that the problem's own losses take."""

    init: Tensor
    transform: str = "identity"
    lower: float | None = None
    upper: float | None = None

    @property
    def value(self) -> Tensor:
        if self.transform == "identity":
            return self.init
        return self.init.exp() if self.transform == "exp" else self.init.sigmoid()


@dataclass(frozen=True)
class Batch:
    """Some examples with their positions in the data."""

    content: Any
    index: Tensor

    @property
    def inputs(self) -> Any:
        return self.content[0]

    @property
    def targets(self) -> Any:
        return self.content[1]


@dataclass(frozen=True)
class AllRows:
    """A metric that is no mean over the rows."""

    measure: Callable[..., Tensor]
    rows: Callable[[Any, Any], Tensor] | None = None


class StepRates(NamedTuple):
    """The rates of a step."""

    learning_rate: Any
    momentum: Any
    weight_decay: Any


class UpdateRule(ABC):
    """An optimizer that is stated by its update."""

    memory_rows: int
    elementwise = True

    @abstractmethod
    def update(
        self,
        step: int,
        weights: Tensor,
        memory: Sequence[Tensor],
        gradient: Tensor,
        rates: StepRates,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The weights and the memory after a step."""


def cross_entropies() -> nn.Module:
    return nn.CrossEntropyLoss(reduction="none")


@dataclass
class Problem:
    """A model to train, its data and its losses."""

    model: nn.Module
    train: Any
    valid: Any
    test: Any = None
    loss: Callable[[Any, Any], Tensor] = field(default_factory=cross_entropies)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    if "code" in USES or "weights of groups" in USES:
        columns: Mapping[str, Any] = field(default_factory=dict)
    initialize: Any = None
    if "code" in USES:
        inner_loss: Callable[..., Tensor] | None = None
        outer_loss: Callable[..., Tensor] | None = None
        hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict)
        diagnostics: Mapping[str, Any] = field(default_factory=dict)
        collate_fn: Callable[[list[Any]], Any] | None = None
        apply: Callable[[nn.Module, Any], Any] | None = None
        targets: Callable[[Any], Tensor] | None = None
        optimizer: UpdateRule | None = None
        describe: Callable[[int], str] | None = None

    def outputs(self, content: Any) -> Any:
        """What the model makes of the content of a minibatch."""
        if "code" not in USES:
            return self.model(content[0])
        content = mapped(lambda leaf: leaf, content)
        if self.apply is not None:
            return self.apply(self.model, content)
        if is_pair(content):
            return applied(self.model, content[0])
        if isinstance(content, Mapping):
            return applied(self.model, accepted(self.model, content))
        return self.model(content)

    def losses(self, content: Any) -> Tensor:
        """The loss of every row, shape (rows,)."""
        return self.loss(self.outputs(content), targets_or_all(content))

    if "weights of classes" in USES:

        def classes_of(self, content: Any) -> Tensor:
            """The class of every row, shape (rows,)."""
            if "code" in USES:
                if self.targets is not None:
                    return self.targets(content)
            found: Tensor = content[1]
            return found


def error_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of rows whose largest output is not the target."""
    return (outputs.argmax(dim=1) != targets).to(torch.float64).mean()


def square_root(values: Tensor) -> Tensor:
    positive = values > 0.0
    return torch.where(positive, values, 1.0).sqrt() * positive


def is_pair(content: Any) -> bool:
    """Whether the content of a minibatch is a pair (inputs, targets)."""
    return isinstance(content, tuple | list) and len(content) == 2


def described(value: Any) -> str:
    return f"a {type(value).__name__}"


def targets_or_all(content: Any) -> Any:
    """What a loss or a metric takes beside the outputs: the targets of a pair, or all."""
    if "code" in USES:
        return content[1] if is_pair(content) else content
    return content[1]


def accepted(model: nn.Module, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries that the model's forward takes by name; the content itself if it takes none."""
    taken = inspect.signature(model.forward).parameters
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return content
    return {key: value for key, value in content.items() if key in taken} or content


def applied(model: nn.Module, inputs: Any) -> Any:
    """The model on the inputs: on their parts if its forward takes those, or else as they are."""
    if not isinstance(inputs, Mapping | tuple | list):
        return model(inputs)
    parts: tuple[Any, ...] = () if isinstance(inputs, Mapping) else tuple(inputs)
    named = {str(key): part for key, part in inputs.items()} if isinstance(inputs, Mapping) else {}
    try:
        inspect.signature(model.forward).bind(*parts, **named)
    except TypeError:
        return model(inputs)
    return model(*parts, **named)


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The nested structure with `function` of each leaf in the leaf's place."""
    made: Any
    if isinstance(tree, Mapping):
        made = copy(tree)
        for key, child in tree.items():
            made[key] = mapped(function, child)
        return made
    if isinstance(tree, tuple | list):
        children = [mapped(function, child) for child in tree]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)
    if is_dataclass(tree) and not isinstance(tree, type):
        made = copy(tree)
        for each in fields(tree):
            object.__setattr__(made, each.name, mapped(function, getattr(tree, each.name)))
        return made
    return function(tree)


def tensors_of(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None, tree)
    return found


def columns_of(data: Any) -> Any:
    """The structure of tensors that the data are; None for a data set of items."""
    if isinstance(data, TensorDataset):
        return data.tensors
    if isinstance(data, list):
        return data if len(data) == 2 and isinstance(data[0], Tensor) else None
    if isinstance(data, tuple):
        return data if tensors_of(data) else None
    if isinstance(data, Mapping | Tensor):
        return data
    return data if is_dataclass(data) and not hasattr(data, "__getitem__") else None


class Examples:
    """The rows of one data set, or of several one after the other.

    Attributes:
        rows: their number.
    """

    def __init__(self, problem: Problem, *parts: Any) -> None:
        if "code" in USES:
            self._columns = [columns_of(part) for part in parts]
            self._parts = parts
            self._collate = problem.collate_fn or default_collate
            sizes = [
                len(part if columns is None else tensors_of(columns)[0])
                for part, columns in zip(parts, self._columns, strict=True)
            ]
            self._ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
            self.rows = self._ends[-1]
        else:
            self._inputs, self._targets = (torch.cat(each) for each in zip(*parts, strict=True))
            self.rows = len(self._targets)

    def take(self, index: Tensor, dtype: torch.dtype) -> Any:
        """The content of a minibatch with the rows at `index`; numbers have the type."""

        def typed(leaf: Any) -> Any:
            return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

        if "code" not in USES:
            return typed(self._inputs[index]), typed(self._targets[index])
        if len(self._parts) == 1 and self._columns[0] is not None:
            return mapped(lambda column: typed(column[index]), self._columns[0])
        items = [self._item(row) for row in index.tolist()]
        return mapped(typed, self._collate(items))

    if "code" in USES:

        def _item(self, row: int) -> Any:
            number = next(number for number, end in enumerate(self._ends) if row < end)
            row -= self._ends[number - 1] if number else 0
            columns = self._columns[number]
            if columns is None:
                return self._parts[number][row]
            return mapped(lambda column: column[row], columns)


class OnlyTunes:
    """Stands for a name of drmad that no training needs, such as tune."""

    def __init__(self, *values: Any, **named: Any) -> None:
        raise NotImplementedError(
            "recipe.py trains without drmad, and this part of your code asks for more of it than "
            "the statement of the problem: install drmad, or leave the call out of `build`"
        )


def stand_in(folder: Path) -> None:
    """Puts modules in the place of drmad_workers, so that your code imports what it states.

    Args:
        folder: has the modules of drmad_workers.integrations, if your code uses them.
    """
    names = ("", ".problem", ".errors", ".update_rule", ".integrations")
    for name in names:
        module = ModuleType(f"drmad_workers{name}")
        module.__dict__.update({each.__name__: each for each in STATED})
        module.__path__ = [str(folder)] if name == ".integrations" else []
        if name != ".integrations":
            module.__dict__["__getattr__"] = _missing
        sys.modules[module.__name__] = module
        if name:
            setattr(sys.modules["drmad_workers"], name[1:], module)


def _missing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return OnlyTunes


STATED: tuple[Any, ...] = (
    AllRows, Batch, Hyperparameter, Problem, ProblemError, StepRates, UpdateRule,
    described, error_rate, is_pair, square_root,
)  # fmt: skip
"""What a module in the place of drmad_workers has."""
