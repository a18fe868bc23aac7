"""Parses server-sent events from a stream of bytes (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A final CR may be the first half of a CRLF that the next chunk completes.
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True)
class Message:
    """One event as received; its data is not parsed yet and carries the event's id."""

    type: str
    data: str


class EventReader:
    """Assembles messages from chunks, which may end anywhere, even inside a character.

    A message that a broken stream leaves incomplete is dropped; the service sends it again after a
    reconnect.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, list[str]] = {}

    def feed(self, chunk: bytes) -> Iterator[Message]:
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        for line in lines:
            name, _, value = line.decode("utf-8", "replace").partition(":")
            if line and name:  # a line that starts with a colon is a keep-alive comment
                self._fields.setdefault(name, []).append(value.removeprefix(" "))
            elif not line:
                fields, self._fields = self._fields, {}
                if "data" in fields:
                    yield Message(
                        type=fields.get("event", ["message"])[-1],
                        data="\n".join(fields["data"]),
                    )
