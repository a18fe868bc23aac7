"""Captures what a worker process prints, so that its lines reach the job's log."""

from __future__ import annotations

import io
import sys
from collections import deque
from typing import TextIO

MAX_LINES = 1000
"""Bounds the lines that are kept between two reports; older ones are dropped."""

MAX_LINE_LENGTH = 2000
"""Bounds the characters of a captured line; the rest of a longer line is cut off."""


def captured_output() -> deque[str]:
    """Captures the lines that this process prints from now on.

    The streams still write them, too. The caller removes lines from the queue as it reads them.
    """
    lines: deque[str] = deque(maxlen=MAX_LINES)
    sys.stdout, sys.stderr = _Tee(sys.stdout, lines), _Tee(sys.stderr, lines)
    return lines


class _Tee(io.TextIOBase):
    """Writes to a stream, and appends every complete line to a queue."""

    def __init__(self, stream: TextIO, lines: deque[str]) -> None:
        self._stream = stream
        self._lines = lines
        self._open_line = ""

    def write(self, text: str) -> int:
        self._stream.write(text)
        *lines, self._open_line = (self._open_line + text).split("\n")
        self._lines.extend(line[:MAX_LINE_LENGTH] for line in lines)
        self._open_line = self._open_line[:MAX_LINE_LENGTH]
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
