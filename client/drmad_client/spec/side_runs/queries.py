"""The words of a job for a query of an attribution. Needs no pydantic."""

from __future__ import annotations

from typing import Literal

QueryKind = Literal["valid", "each", "classes", "class", "rows", "measure"]
Argument = int | str | list[int] | None

_WHOLE: tuple[QueryKind, ...] = ("valid", "each", "classes")
FORMS = "valid, each, classes, class:K, rows:0,5,10-19 or measure:NAME"


def parse_query(text: str) -> tuple[QueryKind, Argument]:
    """The kind of a query, and its class, its rows or its name.

    Raises:
        ValueError: the text is no query.
    """
    head, colon, rest = text.partition(":")
    if not colon:
        for kind in _WHOLE:
            if head == kind:
                return kind, None
    elif head == "class" and rest.isdecimal():
        return "class", int(rest)
    elif head == "measure" and rest:
        return "measure", rest
    elif head == "rows":
        return "rows", _rows(rest)
    raise ValueError(f"must be {FORMS}, got {text!r}")


def _rows(text: str) -> list[int]:
    """The rows of a list such as 0,5,10-19; a range has both its ends."""
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"rows must be numbers and ranges such as 0,5,10-19, got {text!r}")
        start, stop = int(first), int(last) if dash else int(first)
        if stop < start or stop - start >= 1_000_000:
            raise ValueError(f"a range of rows must go upwards, got {part.strip()!r}")
        found |= dict.fromkeys(range(start, stop + 1))
    return list(found)
