"""Values of Python as values of JSON: scalars of NumPy are numbers, other objects are refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python


class NotPlain(Exception):
    """A value that JSON does not have.

    Attributes:
        path: the keys and indices that lead to it.
    """

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def with_numbers(value: Any) -> Any:
    """The value with the numbers of Python in the place of NumPy's scalars; the rest as it is."""
    numpy = sys.modules.get("numpy")
    return value if numpy is None else _with_numbers(value, numpy.generic)


def plain(value: Any, path: tuple[str | int, ...] = ()) -> Any:
    """The value as JSON holds it.

    Raises:
        NotPlain: at the first value that is neither plain nor a scalar of NumPy.
    """
    if isinstance(value, Mapping):
        return {_key(name, path): plain(inner, (*path, str(name))) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, (*path, index)) for index, inner in enumerate(value)]
    value = with_numbers(value)
    try:
        return to_jsonable_python(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError) as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        advice = "; write an array as a list, by .tolist()" if hasattr(value, "tolist") else ""
        message = f"must be a number, a text, a list or a mapping, got an object of {kind}{advice}"
        raise NotPlain(path, message) from error


def _with_numbers(value: Any, scalar: type[Any]) -> Any:
    if type(value) is dict:
        return {name: _with_numbers(inner, scalar) for name, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with_numbers(inner, scalar) for inner in value)
    return value.item() if isinstance(value, scalar) else value


def _key(name: Any, path: tuple[str | int, ...]) -> str:
    name = with_numbers(name)
    if isinstance(name, str | int | float):
        return str(name)
    raise NotPlain(path, f"must have texts as keys, got {name!r}")
