"""A job as somebody types it: YAML with what is wrong, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from drmad_client.errors import field_errors
from drmad_client.spec.job import JobSpec

MOST_CHARACTERS = 200_000
_DEEPEST = 50

# libyaml's where it is there: the Python one takes seconds for what a hostile text asks of it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Draft(BaseModel):
    """What the editor sends: its text, or what its form holds."""

    text: str | None = None
    job: dict[str, Any] | None = None


class EditorMessage(BaseModel):
    """One thing that is wrong."""

    path: str
    message: str
    line: int | None = None


class Checked(BaseModel):
    """What the editor shows."""

    text: str
    job: dict[str, Any] | None
    findings: list[EditorMessage]


def check(draft: Draft) -> Checked:
    """Read a draft and say what is wrong with it. Of a form, also the YAML."""
    if draft.job is not None:
        text = dump(draft.job)
        return Checked(text=text, job=draft.job, findings=_findings(draft.job, text))
    text = draft.text or ""
    try:
        job = _load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else None
        return Checked(
            text=text, job=None, findings=[EditorMessage(path="", message=message, line=line)]
        )
    except ValueError as error:
        return Checked(text=text, job=None, findings=[EditorMessage(path="", message=str(error))])
    if not isinstance(job, dict):
        message = "write a job: fields such as `problem:` and `hyperparameters:`"
        return Checked(text=text, job=None, findings=[EditorMessage(path="", message=message)])
    return Checked(text=text, job=job, findings=_findings(job, text))


def dump(job: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(job), sort_keys=False, allow_unicode=True, width=100)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What `after` sets otherwise, nested like a job; lists are taken as a whole."""
    changed: dict[str, Any] = {}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := changes(old, value):
                changed[name] = inner
        elif value != old:
            changed[name] = value
    return changed


def _load(text: str) -> Any:
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"at most {MOST_CHARACTERS:,} characters, got {len(text):,}")
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        # A few aliases of aliases stand for more than fits in memory once they are written out.
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not taken here; write the value again")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"is nested too deeply: at most {_DEEPEST} levels")
    # YAML has dates, bytes and keys of any kind; a job has what JSON has.
    return json.loads(json.dumps(yaml.load(text, Loader=_Loader), default=str, skipkeys=True))


def _findings(job: Mapping[str, Any], text: str) -> list[EditorMessage]:
    try:
        JobSpec.model_validate(job)
    except ValidationError as error:
        lines = dict(_lines(yaml.compose(text, Loader=_Loader)))
        return [
            EditorMessage(path=e.path, message=e.message, line=_line(e.path, lines))
            for e in field_errors(error.errors(), job)
        ]
    return []


def _lines(node: yaml.Node | None, path: str = "") -> Iterator[tuple[str, int]]:
    """The line at which each field stands."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = f"{path}[{index}]"
            yield inner, value.start_mark.line + 1
            yield from _lines(value, inner)


def _line(path: str, lines: Mapping[str, int]) -> int | None:
    """Of the field, or of the nearest one around it that was written."""
    while path and path not in lines:
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    return lines.get(path)


def essential(spec: BaseModel) -> dict[str, Any]:
    """What of a job is not a default anyway, and what kind each part is."""
    kept: dict[str, Any] = {}
    fields = type(spec).model_fields
    kinds = [
        name
        for name, field in fields.items()
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    ]
    for name in dict.fromkeys([*kinds, *fields]):
        field, value = fields[name], getattr(spec, name)
        if name not in kinds and not field.is_required() and value == field.get_default():
            continue
        kept[name] = _plain(value)
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return essential(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
