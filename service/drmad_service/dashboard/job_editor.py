"""Validates the draft of a job, as YAML or as form fields, and locates each error by line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.fork import ForkSpec
from drmad_client.spec.job import JobSpec
from drmad_client.spec.text import yaml_text
from drmad_service.dashboard import yaml_edits

MOST_CHARACTERS = 200_000
_DEEPEST = 50

# The C loader of libyaml, if PyYAML has it: the Python loader takes seconds for hostile input.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Draft(BaseModel):
    """The request of the editor: its text, or the fields of its form and the text before."""

    text: str | None = None
    job: dict[str, Any] | None = None


class EditorMessage(BaseModel):
    """One error of a draft, with the line of the YAML text where it is known."""

    path: str
    message: str
    line: int | None = None


class ValidatedDraft(BaseModel):
    """The answer to the editor: the YAML text, the job it describes and its errors."""

    text: str
    job: dict[str, Any] | None
    findings: list[EditorMessage]


def validate(draft: Draft) -> ValidatedDraft:
    """Validates a draft; fields of the form change the text where they differ from it."""
    if draft.job is not None:
        kept = None if draft.text is None else yaml_edits.edited(draft.text, draft.job, _load)
        text = to_yaml(draft.job) if kept is None else kept
        return ValidatedDraft(text=text, job=draft.job, findings=_findings(draft.job, text))
    text = draft.text or ""
    try:
        job = _load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else None
        return ValidatedDraft(
            text=text, job=None, findings=[EditorMessage(path="", message=message, line=line)]
        )
    except ValueError as error:
        return ValidatedDraft(
            text=text, job=None, findings=[EditorMessage(path="", message=str(error))]
        )
    if not isinstance(job, dict):
        message = "expected the fields of a job, such as `problem:` and `hyperparameters:`"
        return ValidatedDraft(
            text=text, job=None, findings=[EditorMessage(path="", message=message)]
        )
    return ValidatedDraft(text=text, job=job, findings=_findings(job, text))


def to_yaml(job: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(job), sort_keys=False, allow_unicode=True, width=100)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `after` that differ from `before`, nested; a list is one value."""
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
        raise ValueError(f"expected at most {MOST_CHARACTERS:,} characters, got {len(text):,}")
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        # A few nested aliases expand to more than fits in memory.
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not supported; repeat the value")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"nested too deeply: expected at most {_DEEPEST} levels")
    # YAML allows dates, bytes and keys of any type; a job allows the values of JSON.
    return json.loads(json.dumps(yaml_text.load(text, loader=_Loader), default=str, skipkeys=True))


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


def fork_findings(spec: JobSpec, changes: Mapping[str, Any]) -> list[EditorMessage]:
    """Returns the changes of a fork that the state of the forked job does not fit."""
    try:
        ForkSpec(iteration=0, changes=dict(changes)).applied_to(spec)
    except ValidationError as error:
        found = field_errors(error.errors(), {"changes": changes})
        return [
            EditorMessage(path=e.path.removeprefix("changes."), message=e.message) for e in found
        ]
    return []


def _lines(node: yaml.Node | None, path: str = "") -> Iterator[tuple[str, int]]:
    """Yields the path of each field with the line that it starts on."""
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
    """Returns the line of the field, or of the nearest enclosing field in the text."""
    while path and path not in lines:
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    return lines.get(path)


def without_defaults(spec: BaseModel) -> dict[str, Any]:
    """Returns the fields that differ from their defaults, and each discriminator such as `kind`."""
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
        return without_defaults(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
