"""From the errors of pydantic to the bad fields of a request."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drmad_client.records.problem_details import FieldError
from drmad_client.spec.text.field_paths import without_tags
from drmad_client.spec.text.renamed import new_name


def field_errors(errors: Sequence[Mapping[str, Any]], body: Any) -> list[FieldError]:
    """The errors that pydantic found in `body`, with paths and messages that a user can act on.

    The `loc` of pydantic names the members of unions too, which are no fields of a path. The `loc`
    of a misfit is our own, and may name a field at its default.
    """
    return [
        FieldError(path=_path(error, body), message=message_of(error, body))
        for error in errors
        if not _follows(error, errors)
    ]


def _follows(error: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a list is too short only because pydantic left out the items that it refused."""
    if error["type"] != "too_short" or not isinstance(error["input"], list | tuple):
        return False
    at = tuple(error["loc"])
    has_wrong_items = any(tuple(e["loc"])[: len(at)] == at and e["loc"] != at for e in errors)
    return has_wrong_items and len(error["input"]) >= error["ctx"]["min_length"]


def _path(error: Mapping[str, Any], body: Any) -> str:
    path, here = "", body
    loc = error["loc"] if error["type"] == "misfit" else without_tags(error["loc"])
    last = len(loc) - 1
    for depth, part in enumerate(loc):
        optimizer = here.get("optimizer") if isinstance(here, dict) else None
        if isinstance(optimizer, dict) and part in optimizer and part not in here:
            here, path = optimizer, _join(path, "optimizer")  # its fields may stand in a mapping
        inside = (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if inside:
            here = here[part]
        elif error["type"] != "misfit" and (error["type"] != "missing" or depth != last):
            continue
        path = _join(path, part)
    if error["type"] in _UNION_ERRORS:
        return _join(path, _discriminator(error))
    is_named = loc == ("training", "optimizer") and isinstance(here, dict) and "name" in here
    return _join(path, "name") if is_named else path


_UNION_ERRORS = ("union_tag_invalid", "union_tag_not_found")


def _discriminator(error: Mapping[str, Any]) -> str:
    return str(error["ctx"]["discriminator"]).strip("'")


def written_path(path: Iterable[str | int]) -> str:
    """The path as errors write it, such as hyperparameters[0].kind."""
    return functools.reduce(_join, path, "")


def _join(path: str, part: int | str) -> str:
    if isinstance(part, int):
        return f"{path}[{part}]"
    return f"{path}.{part}" if path else part


def message_of(error: Mapping[str, Any], body: Any) -> str:
    """What is wrong, for people: the expectation, the finding and the remedy."""
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "union_tag_invalid":
        return f"must be one of {context['expected_tags']}, got {context['tag']!r}"
    if kind == "extra_forbidden":
        if (name := _present_name(error, body)) is not None:
            return f"is called {name} now"
        return "is not a known field; remove it or correct its spelling"
    if kind in ("missing", "union_tag_not_found"):
        return "is required"
    message = _plain(error)
    names_value = kind in ("misfit", "control_character")
    if isinstance(value, str | int | float | bool) and len(str(value)) <= 80 and not names_value:
        message += f", got {value!r}"
    return message


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "a mapping of fields, as in {name: value}",
    "model": "a mapping of fields, as in {name: value}",
    "model_attributes": "a mapping of fields, as in {name: value}",
    "list": "a list, as in [first, second]",
    "tuple": "a list, as in [first, second]",
    "datetime": "a date and time, as in 2026-01-31T12:00:00Z",
}
"""What each type of pydantic is called in a job."""
_BOUNDS = {
    "too_short": "must have a number of entries of at least {min_length}, got {actual_length}",
    "too_long": "must have a number of entries of at most {max_length}, got {actual_length}",
    "string_too_short": "must have a length of at least {min_length}",
    "string_too_long": "must have a length of at most {max_length}",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_from_float": "must be a whole number",
}
"""Messages about bounds, by the type of pydantic, which gives the values in braces."""


def _plain(error: Mapping[str, Any]) -> str:
    """The message without the words of pydantic."""
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind in ("too_short", "too_long") and isinstance(error.get("input"), str):
        kind = f"string_{kind}"
    if kind in _BOUNDS:
        shown = {name: f"{v:g}" if isinstance(v, float) else v for name, v in context.items()}
        return _BOUNDS[kind].format(**shown)
    stem = kind.removesuffix("_type").removesuffix("_parsing")
    if stem != kind and stem in _KINDS:
        return f"must be {_KINDS[stem]}"
    message = str(error["msg"])
    for words in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(words)
    return message.replace("Input should be", "must be")


def _present_name(error: Mapping[str, Any], body: Any) -> str | None:
    """The present name of a field that was renamed."""
    if not error["loc"]:
        return None
    section, field = str(error["loc"][0]), str(error["loc"][-1])
    fields = body.get(section) if isinstance(body, dict) else None
    return new_name(section, field, fields) if isinstance(fields, dict) else None
