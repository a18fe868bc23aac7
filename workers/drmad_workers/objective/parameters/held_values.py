"""Where a model and its losses hold values that a forward pass may change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Number = bool | int | float
Holder = MutableMapping[str, Any]

MAX_ENTRIES = 2**20
"""Bounds the entries of a tensor that a function holds, so that data sets are not copied."""
DEPTH = 2
"""Bounds how deep containers and objects are searched."""


class Place(NamedTuple):
    """One value: the mapping that holds it, its key, and a name for people."""

    holder: Holder
    name: str
    path: str

    @property
    def value(self) -> Tensor | Number:
        found: Tensor | Number = self.holder[self.name]
        return found

    @property
    def key(self) -> tuple[int, str]:
        return id(self.holder), self.name


class Cell(dict[str, Any]):
    """The variable of a closure as a mapping with one key."""

    def __init__(self, name: str, cell: CellType) -> None:
        super().__init__({name: cell.cell_contents})
        self._cell = cell

    def __getitem__(self, name: str) -> Any:
        return self._cell.cell_contents

    def __setitem__(self, name: str, value: Any) -> None:
        self._cell.cell_contents = value


class HeldValues:
    """The places of a model's buffers, frozen parameters, and of numbers and tensors in Python.

    Python values are attributes of modules, and variables, containers and objects that the losses
    refer to: closures, globals, attributes of bound objects. A loss that is a module has buffers
    and attributes as the model has. Sparse and nested tensors are constants.
    """

    def __init__(self, model: nn.Module, losses: Sequence[Callable[..., Any] | None]) -> None:
        self._modules = list(_modules_of(model, *loss_modules(losses)))
        functions = [loss for loss in losses if not isinstance(loss, nn.Module | None)]
        for _, module in self._modules:
            functions += [*_forward_of(module), *_functions_of(module)]
        self._roots = [root for function in functions for root in _roots(function)]

    def tensors_of_model(self, frozen: bool) -> Iterator[Place]:
        """Buffers, and parameters that require no gradient."""
        for lead, module in self._modules:
            for name, buffer in module._buffers.items():
                if buffer is not None and is_dense(buffer):
                    yield Place(module._buffers, name, lead + name)
            for name, parameter in module._parameters.items():
                if frozen and parameter is not None and not parameter.requires_grad:
                    yield Place(module._parameters, name, lead + name)

    def values_in_python(self) -> Iterator[Place]:
        seen: set[int] = set()
        for lead, module in self._modules:
            yield from _places(module.__dict__, lead, 0, seen)
        for holder, lead in self._roots:
            yield from _places(holder, lead, DEPTH, seen)


def loss_modules(losses: Iterable[object]) -> list[nn.Module]:
    """The losses that are modules, or methods of modules."""
    owners = [getattr(loss, "__self__", loss) for loss in losses]
    return [owner for owner in owners if isinstance(owner, nn.Module)]


def _modules_of(model: nn.Module, *losses: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules by the start of their values' names; one that several roots share comes once."""
    seen: set[nn.Module] = set()
    for root, name in ((model, ""), *((loss, f"{type(loss).__name__}.") for loss in losses)):
        for prefix, module in root.named_modules(memo=seen):
            yield f"{name}{prefix}." if prefix else name, module


def _forward_of(module: nn.Module) -> list[Callable[..., Any]]:
    """The forward of the module's class; the class of a compiled TorchScript module has none."""
    forward = getattr(type(module), "forward", None)
    return [] if forward is None else [forward]


def _functions_of(module: nn.Module) -> Iterator[Callable[..., Any]]:
    """The functions that are attributes of a module."""
    for value in module.__dict__.values():
        if isinstance(value, FunctionType | MethodType):
            yield value


def _places(holder: Holder, lead: str, depth: int, seen: set[int]) -> Iterator[Place]:
    if id(holder) in seen:
        return
    seen.add(id(holder))
    for name, value in list(holder.items()):
        path = f"{lead}{name}"
        if isinstance(value, Number) or (isinstance(value, Tensor) and _is_small(value)):
            yield Place(holder, name, path)
        elif depth > 0 and (inner := _inner(value)) is not None:
            yield from _places(inner, f"{path}.", depth - 1, seen)


def _is_small(tensor: Tensor) -> bool:
    is_constant = not tensor.requires_grad and is_dense(tensor)
    return is_constant and tensor.numel() <= MAX_ENTRIES


def is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested


def _inner(value: Any) -> Holder | None:
    """The mapping inside a container or an object of the user's."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    if isinstance(value, nn.Module | type | ModuleType | FunctionType | Tensor | torch.Generator):
        return None
    found = getattr(value, "__dict__", None)
    return found if isinstance(found, dict) else None


def _roots(
    loss: Callable[..., Any], depth: int = DEPTH, home: str | None = None
) -> Iterator[tuple[Holder, str]]:
    """The mappings of the variables and attributes that a function refers to.

    Functions that it calls are searched too, if they are in closures or in its own module.
    """
    function: Any = loss
    if isinstance(function, MethodType):
        if (inner := _inner(function.__self__)) is not None:
            yield inner, f"{type(function.__self__).__name__}."
        function = function.__func__
    if not isinstance(function, FunctionType):
        if (inner := _inner(function)) is not None:
            yield inner, f"{type(function).__name__}."
        function = vars(type(function)).get("__call__")
        if not isinstance(function, FunctionType):
            return
    home = home or function.__module__ or ""
    if function.__module__ != home or home.startswith("torch."):
        return
    called = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield Cell(name, cell), ""
        except ValueError:  # a variable that is not assigned yet
            continue
        called.append(cell.cell_contents)
    globals_ = _Globals(function.__globals__, function.__code__.co_names)
    yield globals_, ""
    called += [value for _, value in globals_.items()]
    for each in called:
        if depth > 0 and isinstance(each, FunctionType | MethodType):
            yield from _roots(each, depth - 1, home)


class _Globals(dict[str, Any]):
    """The globals of a function that its code names, read from and written to the module."""

    def __init__(self, module: dict[str, Any], names: tuple[str, ...]) -> None:
        super().__init__({name: module[name] for name in names if name in module})
        self._module = module

    def __getitem__(self, name: str) -> Any:
        return self._module[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._module[name] = value

    def items(self) -> Any:
        return [(name, self._module[name]) for name in self]
