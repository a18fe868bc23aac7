"""JSON whose objects hold every key once."""

from __future__ import annotations

import json
import re
from typing import Any

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)
_COLON = re.compile(r"\s*:")


class _Repeated(Exception):
    """An object holds a key twice."""


def load(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        json.JSONDecodeError: the text is not JSON, or is nested too deep, or an object holds a key
            twice; its message and its position name the second of them.
        UnicodeDecodeError: bytes are not in the encoding that JSON declares.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        return json.loads(text, object_pairs_hook=_once)
    except _Repeated:
        raise _repeated_key(text) from None
    except RecursionError:
        raise json.JSONDecodeError("the values are nested too deep", text, 0) from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # a number with more digits than Python reads
        raise json.JSONDecodeError(f"a number is too long ({error})", text, 0) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _Repeated
    return fields


def _repeated_key(text: str) -> json.JSONDecodeError:
    """The error at the first key that stands twice in its object."""
    open_objects: list[dict[str, int]] = []
    for token in _TOKEN.finditer(text):
        if token[0] == "{":
            open_objects.append({})
        elif token[0] == "}":
            open_objects.pop()
        elif _COLON.match(text, token.end()):
            key, line = json.loads(token[0], strict=False), text.count("\n", 0, token.start()) + 1
            if key in open_objects[-1]:
                message = (
                    f"the key {key!r} of line {line} stands in line {open_objects[-1][key]} "
                    "already; leave out one of the two"
                )
                return json.JSONDecodeError(message, text, token.start())
            open_objects[-1][key] = line
    raise AssertionError("no key is repeated")  # pragma: no cover
