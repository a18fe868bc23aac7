"""YAML of a job: a bare word stays a word where the field takes no boolean.

YAML 1.1 reads yes, no, on and off as booleans, so `batched: off` would be `batched: false`. Nor is
a number or a date read where the field takes text alone: `tags: {seed: 3}` holds the text 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from drmad_client.spec.text.field_paths import types_at
from drmad_client.spec.text.field_types import inner_types

_BOOLEAN, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_NO_TEXT = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp"))
_WRITTEN_OUT = ("true", "false")


def load(text: str, path: Sequence[str | int] = (), loader: Any = yaml.SafeLoader) -> Any:
    """The value that the text gives to the field of a job at `path`; by default a whole job.

    Raises:
        yaml.YAMLError: the text is not YAML, or a mapping holds a key twice.
    """
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        _refuse_repeated_keys(node)
        _keep_words(node, types_at(path))
        return reader.construct_document(node)
    finally:
        reader.dispose()


def _refuse_repeated_keys(root: yaml.Node) -> None:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            waiting += [key, value]
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value in lines:
                problem = (
                    f"the key {key.value!r} stands in line {lines[key.value]} already; leave out "
                    "one of the two"
                )
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1


def _keep_words(node: yaml.Node, types: Sequence[Any]) -> None:
    if not types or Any in types:  # nor can anything below be a field that takes a word
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _keep_words(value, inner_types(types, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _keep_words(value, inner_types(types, 0))
    elif all(one is str for one in types):
        node.tag = _TEXT if node.tag in _NO_TEXT else node.tag
    elif node.tag == _BOOLEAN and node.value.lower() not in _WRITTEN_OUT and bool not in types:
        node.tag = _TEXT
