"""The types below each field of a part of a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


def inner_types(types: Iterable[Any], part: str | int) -> list[Any]:
    """The types of a part of a value of one of these types."""
    return list(dict.fromkeys(inner for one in types for inner in _inner(one, part)))


def with_words_for_booleans(value: Any, types: Sequence[Any]) -> Any:
    """The value of a field of these types, with words for booleans where its fields take numbers.

    Numbers refuse the words; pydantic takes true for 1.
    """
    if isinstance(value, bool):
        takes_numbers = (int in types or float in types) and bool not in types
        return str(value).lower() if takes_numbers else value
    if not types or Any in types:
        return value
    if isinstance(value, Mapping):
        return {
            name: with_words_for_booleans(inner, inner_types(types, name))
            for name, inner in value.items()
        }
    if isinstance(value, list):
        inside = inner_types(types, 0)
        return [with_words_for_booleans(inner, inside) for inner in value]
    return value


def _inner(one: Any, part: str | int) -> Iterator[Any]:
    """The types of a part of a value of this type; none if it has no such part."""
    origin, arguments = get_origin(one), get_args(one)
    if one is Any:
        yield Any
    elif isinstance(part, str) and isinstance(one, type) and issubclass(one, BaseModel):
        if part in one.model_fields:
            yield from _alternatives(one.model_fields[part].annotation)
    elif origin is (dict if isinstance(part, str) else list):
        yield from _alternatives(arguments[-1])


def _alternatives(annotation: Any) -> Iterable[Any]:
    """The types of a union, without their annotations."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _alternatives(arguments[0])
    if origin in (Union, UnionType):
        return [one for each in arguments for one in _alternatives(each)]
    return [] if annotation is NoneType else [annotation]
