"""The minibatches of a plain training, as torch's DataLoader makes them of a data set."""

import inspect
from collections import UserDict
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, default_collate

from drmad_workers import Problem
from drmad_workers.random_streams import Purpose, seed_of
from tests.workers.judge.randomness import seed_everything


class Contents:
    """The contents of the minibatches of a data set.

    Attributes:
        rows: the number of examples.
    """

    def __init__(self, problem: Problem, data: Any, dtype: torch.dtype) -> None:
        self._collate = problem.collate_fn
        self._dtype = dtype
        data = data.tensors if isinstance(data, TensorDataset) else data
        self._are_items = isinstance(data, Dataset) or (
            isinstance(data, list) and not isinstance(data[0], Tensor)
        )
        self._data = data
        lengths: list[int] = []
        if not self._are_items:
            each(lambda column: lengths.append(len(column)), data)
        self.rows = len(data) if self._are_items else lengths[0]

    def of(self, index: Tensor, seeds: Sequence[int]) -> Any:
        """The content of the rows at `index`, each of which is read under its seed."""
        if self._are_items or self._collate is not None:
            items = [self._item(*each) for each in zip(index.tolist(), seeds, strict=True)]
            seed_everything(seed_of(Purpose.COLLATE, seeds[0]))
            content = (self._collate or default_collate)(items)
        else:
            content = each(lambda column: column[index], self._data)
        return each(self._own, content)

    def _item(self, row: int, seed: int) -> Any:
        seed_everything(seed)
        return self._data[row] if self._are_items else each(lambda column: column[row], self._data)

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype, copy=True) if tensor.is_floating_point() else tensor.clone()


def each(function: Callable[[Tensor], Any], part: Any) -> Any:
    """The structure with `function` of each tensor."""
    if isinstance(part, Tensor):
        return function(part)
    if isinstance(part, dict | UserDict):
        return type(part)({key: each(function, value) for key, value in part.items()})
    if isinstance(part, tuple) and hasattr(part, "_make"):
        return part._make(each(function, value) for value in part)
    if isinstance(part, tuple | list):
        return type(part)(each(function, value) for value in part)
    if is_dataclass(part) and not isinstance(part, type):
        found = {field.name: each(function, getattr(part, field.name)) for field in fields(part)}
        return replace(part, **found)
    return part


def outputs_of(problem: Problem, model: nn.Module, content: Any) -> Any:
    """The model's outputs, as the documentation of Problem.apply says."""
    if problem.apply is not None:
        return problem.apply(model, content)
    names = inspect.signature(model.forward).parameters
    if isinstance(content, tuple | list) and len(content) == 2:
        content = content[0]
        if isinstance(content, tuple | list) and len(names) == len(content):
            return model(*content)
    if isinstance(content, dict | UserDict) and names.keys() & content.keys():
        return model(**{name: content[name] for name in names if name in content})
    return model(content)


def losses_of(problem: Problem, model: nn.Module, content: Any) -> Tensor:
    """The loss of every row, by the targets of a pair or by the whole content."""
    is_pair = isinstance(content, tuple | list) and len(content) == 2
    return problem.loss(outputs_of(problem, model, content), content[1] if is_pair else content)
