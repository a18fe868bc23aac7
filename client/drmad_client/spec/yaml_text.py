"""YAML of a job: a bare word stays a word where the field takes no boolean.

YAML 1.1 reads yes, no, on and off as booleans, so `batched: off` would be `batched: false`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from drmad_client.spec.job import JobSpec

_BOOLEAN, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
_WRITTEN_OUT = ("true", "false")


def load(text: str, path: Sequence[str | int] = (), loader: Any = yaml.SafeLoader) -> Any:
    """The value that the text gives to the field of a job at `path`; by default a whole job.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    types: list[Any] = [JobSpec]
    for part in path:
        types = [inner for one in types for inner in _inner(one, part)]
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        _keep_words(node, types)
        return reader.construct_document(node)
    finally:
        reader.dispose()


def _keep_words(node: yaml.Node, types: Sequence[Any]) -> None:
    if not types or Any in types:  # nor can anything below be a field that takes a word
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _keep_words(value, [inner for one in types for inner in _inner(one, key.value)])
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _keep_words(value, [inner for one in types for inner in _inner(one, 0)])
    elif node.tag == _BOOLEAN and node.value.lower() not in _WRITTEN_OUT and bool not in types:
        node.tag = _TEXT


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
