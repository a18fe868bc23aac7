"""Constants as Python source."""

from __future__ import annotations

import math
from typing import Any

_MOST_CHARACTERS = 2_000
"""Bounds the source of a constant; what is longer is data."""


def literal(value: Any) -> str:
    """The source of a number, a string, or a tuple, list or dictionary of these; else empty."""
    text = _text(value)
    return text if text is not None and len(text) <= _MOST_CHARACTERS else ""


def _text(value: Any) -> str | None:
    if type(value) is float and not math.isfinite(value):
        return f"float({str(value)!r})"
    if value is None or value is ... or type(value) in (bool, int, float, complex, str, bytes):
        return repr(value)
    if type(value) is dict:
        pairs = [(_text(key), _text(item)) for key, item in value.items()]
        if any(None in pair for pair in pairs):
            return None
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    if type(value) in (tuple, list):
        items = [_text(item) for item in value]
        if None in items:
            return None
        inner = ", ".join(str(item) for item in items)
        if type(value) is list:
            return f"[{inner}]"
        return f"({inner},)" if len(items) == 1 else f"({inner})"
    return None
