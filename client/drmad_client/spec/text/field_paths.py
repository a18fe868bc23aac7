"""The types of each field of a job, and the paths of its fields without the tags of unions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from drmad_client.spec.job import JobSpec
from drmad_client.spec.text.field_types import inner_types


def types_at(path: Iterable[str | int]) -> list[Any]:
    """The types that the field of a job at `path` takes; none where it does not exist."""
    types: list[Any] = [JobSpec]
    for part in path:
        types = inner_types(types, part)
    return types


def without_tags(loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """The path of a field of a job, of the `loc` that pydantic gives to an error there.

    A `loc` names the member of each union on its way, which is no field: (problem, code, options).
    A fork has its changes of the job below `changes`.
    """
    if loc[:1] == ("changes",):
        return ("changes", *without_tags(loc[1:]))
    path: list[str | int] = []
    types: list[Any] = [JobSpec]
    is_tag = False
    for part in loc:
        if is_tag:
            types = [one for one in types if _has_tag(one, part)] or types
            is_tag = False
            continue
        path.append(part)
        types = inner_types(types, part)
        is_tag = len(types) > 1
    return tuple(path)


def _has_tag(one: Any, tag: str | int) -> bool:
    if not (isinstance(one, type) and issubclass(one, BaseModel)):
        return False
    literals = (
        field.annotation
        for field in one.model_fields.values()
        if get_origin(field.annotation) is Literal
    )
    return getattr(one, "kind", None) == tag or any(tag in get_args(each) for each in literals)
