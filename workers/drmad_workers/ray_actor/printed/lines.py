"""The lines of a log, of the bytes that a process prints."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

MAX_LINE_LENGTH = 2000
"""Bounds the characters of a line of the log; a longer line is continued in the next ones."""

CONTINUES = " …"
"""Ends a line of the log that the next one continues."""

_MOST_OPEN_BYTES = 1 << 16
_OF_RAY = (":actor_name:", ":task_name:", ":job_id:")  # what Ray tells its own log monitor


class LineReader:
    """The lines of one stream.

    Attributes:
        read: the bytes of the stream that the lines so far hold.
    """

    def __init__(self, read: int = 0) -> None:
        self.read = read
        self._open = b""

    def lines(self, part: bytes) -> Iterator[str]:
        """The lines that this part of the stream ends."""
        *ended, self._open = (self._open + part).split(b"\n")
        for line in ended:
            self.read += len(line) + 1
            yield from _shown(line)
        if len(self._open) > _MOST_OPEN_BYTES:
            self._keep_newest()
        if len(self._open) > _MOST_OPEN_BYTES:  # one line, and no bar of progress
            # A character that is not whole yet stays.
            _, length = codecs.utf_8_decode(self._open, "backslashreplace", False)
            line, self._open = self._open[:length], self._open[length:]
            self.read += length
            yield from _shown(line)

    def rest(self) -> Iterator[str]:
        """The line that no end of line closed."""
        line, self._open = self._open, b""
        self.read += len(line)
        if line := _newest(line):
            yield from _shown(line)

    def _keep_newest(self) -> None:
        newest = _newest(self._open)
        self.read += len(self._open) - len(newest)
        self._open = newest


def _newest(line: bytes) -> bytes:
    """What a terminal shows of the line: a carriage return begins it anew."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _shown(line: bytes) -> Iterator[str]:
    text = _newest(line).decode("utf-8", "backslashreplace")
    if text.startswith(_OF_RAY):
        return
    most = MAX_LINE_LENGTH - len(CONTINUES)
    while len(text) > MAX_LINE_LENGTH:
        yield text[:most] + CONTINUES
        text = text[most:]
    yield text
