"""Text of users and of their code as a terminal may show it: control characters are written out."""

from __future__ import annotations

import re
import sys
from typing import Any

# All control characters but the ends of lines and tabulators, and what turns the text around it.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(text: str) -> str:
    """The text with its control characters as Python writes them, such as backslash x1b."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown_json(text: str) -> str:
    """JSON with the control characters of its texts as JSON writes them."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def echo(text: Any = "", *, err: bool = False, end: str = "\n") -> None:
    """Print a text that a user may have written."""
    print(shown(str(text)), file=sys.stderr if err else sys.stdout, end=end)
