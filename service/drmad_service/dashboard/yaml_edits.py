"""Edits of the YAML text of a job: the fields that change are replaced, all other text stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

Edit = tuple[int, int, str]
"""Start and end in the text, in characters, and what takes their place."""


def edited(text: str, job: Mapping[str, Any], load: Callable[[str], Any]) -> str | None:
    """`text` with the values of `job`; comments, order, styles and the form of numbers stay.

    Args:
        text: YAML that `load` reads as a mapping.
        load: reads a text as the editor does.
    Returns:
        None where the edits cannot be placed; then the whole job has to be written.
    """
    try:
        before = load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(before, dict) or not isinstance(node, yaml.MappingNode):
            return None
        result = text
        edits = sorted(_of_mapping(text, node, before, job), key=lambda edit: edit[:2])
        for start, end, replacement in reversed(edits):
            result = result[:start] + replacement + result[end:]
        return result if load(result) == job else None
    except (yaml.YAMLError, ValueError, KeyError, IndexError):
        return None


def _of_mapping(
    text: str, node: yaml.MappingNode, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Edit]:
    places = {key.value: (key, value) for key, value in node.value}
    for name, value in after.items():
        if name not in before:
            yield _added_field(text, node, name, value)
        elif value != before[name]:
            yield from _of_value(text, places[name][1], before[name], value)
    for name in before.keys() - after.keys():
        yield _without_field(text, node, places[name][0], places[name][1])


def _of_value(text: str, node: yaml.Node, before: Any, after: Any) -> Iterator[Edit]:
    is_filled = isinstance(node, yaml.CollectionNode) and bool(node.value and before and after)
    if is_filled and isinstance(node, yaml.MappingNode) and isinstance(after, dict):
        yield from _of_mapping(text, node, before, after)
        return
    if (
        is_filled
        and isinstance(node, yaml.SequenceNode)
        and isinstance(after, list)
        and len(after) >= len(before)
    ):
        for child, old, new in zip(node.value, before, after, strict=False):
            if old != new:
                yield from _of_value(text, child, old, new)
        yield from _added_items(text, node, after[len(before) :])
        return
    start = node.start_mark.index
    end = max(start, _end(node))
    space = " " if start == end and text[start - 1 : start] == ":" else ""
    yield start, end, space + _inline(after)


def _added_field(text: str, node: yaml.MappingNode, name: str, value: Any) -> Edit:
    if node.flow_style:
        end = node.end_mark.index - 1
        comma = ", " if node.value else ""
        return end, end, f"{comma}{name}: {_inline(value)}"
    return _block(text, node, yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True))


def _added_items(text: str, node: yaml.SequenceNode, items: list[Any]) -> Iterator[Edit]:
    if not items:
        return
    if node.flow_style:
        end = node.end_mark.index - 1
        yield end, end, "".join(f", {_inline(item)}" for item in items)
        return
    yield _block(text, node, yaml.safe_dump(items, sort_keys=False, allow_unicode=True))


def _block(text: str, node: yaml.Node, written: str) -> Edit:
    """Lines behind the last one of a block collection, with its indentation."""
    indent = " " * node.start_mark.column
    line_end = text.find("\n", _end(node))
    place = len(text) if line_end < 0 else line_end
    lines = "".join(f"\n{indent}{line}" for line in written.rstrip("\n").split("\n"))
    return place, place, lines


def _without_field(text: str, node: yaml.MappingNode, key: yaml.Node, value: yaml.Node) -> Edit:
    keys = [each for each, _ in node.value]
    place = next(index for index, each in enumerate(keys) if each is key)
    start, end = key.start_mark.index, max(key.end_mark.index, _end(value))
    if node.flow_style:
        if place + 1 < len(keys):
            return start, keys[place + 1].start_mark.index, ""
        before = _end(node.value[place - 1][1]) if place else start
        return before, end, ""
    line = text.rfind("\n", 0, start) + 1
    if text[line:start].strip():  # the first field of an item of a list, behind its dash
        if place + 1 == len(keys):
            raise ValueError("the only field of an item")
        return start, keys[place + 1].start_mark.index, ""
    line_end = text.find("\n", end)
    return line, len(text) if line_end < 0 else line_end + 1, ""


def _end(node: yaml.Node) -> int:
    """Where the text of a node ends; that of a block collection ends with its last entry.

    The mark of the parser stands behind the comments that follow.
    """
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last: Any = node.value[-1]
        if isinstance(last, tuple):
            key, value = last
            key_end: int = key.end_mark.index
            return max(key_end, _end(value))
        return _end(last)
    place: int = node.end_mark.index
    return place


def _inline(value: Any) -> str:
    written: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1_000_000
    )
    return written.removesuffix("\n").removesuffix("\n...")
