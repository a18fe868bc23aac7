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
MOST_VALUES = 1_000_000


def load(text: str, path: Sequence[str | int] = (), loader: Any = yaml.SafeLoader) -> Any:
    """The value that the text gives to the field of a job at `path`; by default a whole job.

    Raises:
        yaml.YAMLError: the text is not YAML, is nested too deep, or has too many values; a mapping
            holds a key twice, or an alias stands in what it names.
    """
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        _refuse_too_many_values(node)
        _refuse_repeated_keys(node)
        _keep_words(node, types_at(path))
        return reader.construct_document(node)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="the values are nested too deep") from None
    finally:
        reader.dispose()


def _refuse_too_many_values(root: yaml.Node) -> None:
    if (count := _values(root, {})) > MOST_VALUES:
        problem = f"at most {MOST_VALUES:,} values are read, and its aliases make it {count:,}"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=root.start_mark)


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values in a node; those of an alias count wherever it stands."""
    if id(node) not in known:
        known[id(node)] = 0  # until all that is inside is counted
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inside = [value for _, value in inside]
        known[id(node)] = 1 + sum(_values(each, known) for each in inside)
    elif not known[id(node)]:
        problem = "an alias stands in what it names, and never ends"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return known[id(node)]


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
