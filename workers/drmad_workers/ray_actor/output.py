"""Captures what a worker process prints, so that its lines reach the job's log.

The file descriptors 1 and 2 are captured, not the objects of Python alone: what subprocesses, C
code and os.write put out arrives too, and sys.stdout stays a stream with all its methods.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import io
import os
import selectors
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import TextIO

MAX_LINES = 100_000
"""Bounds the lines that are kept between two reports; a line says how many are left out."""

MAX_LINE_LENGTH = 2000
"""Bounds the characters of a line of the log; a longer line is continued in the next ones."""

CONTINUES = " …"
"""Ends a line of the log that the next one continues."""

_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_OF_RAY = (":actor_name:", ":task_name:", ":job_id:")  # what Ray tells its own log monitor


class Output:
    """The lines that this process prints, from its start on. The former streams get them too."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._left_out = 0
        self._lock = threading.RLock()
        self._streams = [self._captured(1, sys.stdout), self._captured(2, sys.stderr)]
        sys.stdout = _text_stream(1)
        sys.stderr = _text_stream(2)
        threading.Thread(target=self._follow, name="drmad-output", daemon=True).start()

    def take(self) -> list[str]:
        """The lines since the last call, with all that was printed before this one."""
        self._read_all()
        with self._lock:
            lines = list(self._lines)
            self._lines.clear()
            if self._left_out:
                lines.insert(
                    0,
                    f"… {self._left_out:,} lines are left out here: the log follows at "
                    f"most {MAX_LINES:,} lines at a time",
                )
                self._left_out = 0
            return lines

    def complete(self) -> None:
        """Ends the lines that are open: the code that printed them has returned."""
        self._read_all()
        with self._lock:
            for stream in self._streams:
                self._add(stream.rest())

    def _captured(self, descriptor: int, stream: TextIO) -> _Captured:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        reading, writing = os.pipe()
        with contextlib.suppress(OSError):  # the system may allow less
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        former = os.dup(descriptor)
        os.dup2(writing, descriptor)
        os.close(writing)
        os.set_blocking(reading, False)
        return _Captured(reading, former)

    def _follow(self) -> None:
        """Reads as it comes, because a process waits once its pipe is full."""
        with selectors.DefaultSelector() as ready:
            for stream in self._streams:
                ready.register(stream.reading, selectors.EVENT_READ)
            while True:
                ready.select()
                self._read()

    def _read_all(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the user's code may have closed it
                stream.flush()
        self._read()

    def _read(self) -> None:
        with self._lock:
            for stream in self._streams:
                for line in stream.new_lines():
                    self._add([line])

    def _add(self, lines: list[str]) -> None:
        for line in lines:
            if not line.startswith(_OF_RAY):
                self._lines.extend(_pieces(line))
        while len(self._lines) > MAX_LINES:
            self._lines.popleft()
            self._left_out += 1


class _Captured:
    """One captured descriptor, and the line that is open on it."""

    def __init__(self, reading: int, former: int) -> None:
        self.reading = reading
        self._former = former
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._open_line = ""

    def new_lines(self) -> Iterator[str]:
        """The lines that are complete, of at least all bytes that the pipe holds now."""
        for _ in range(2 * _PIPE_BYTES // _READ_BYTES):  # a writer may fill it without end
            try:
                part = os.read(self.reading, _READ_BYTES)
            except BlockingIOError:
                return
            _write_all(self._former, part)
            *lines, self._open_line = (self._open_line + self._decoder.decode(part)).split("\n")
            yield from map(_newest, lines)
            if len(self._open_line) > _READ_BYTES:
                self._open_line = _newest(self._open_line)
            if len(self._open_line) > _READ_BYTES:  # one line, and no bar of progress
                yield self._open_line
                self._open_line = ""

    def rest(self) -> list[str]:
        """The line that no end of line closed."""
        line, self._open_line = _newest(self._open_line + self._decoder.decode(b"", True)), ""
        self._decoder.reset()
        return [line] if line else []


def _text_stream(descriptor: int) -> io.TextIOWrapper:
    return open(
        descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def _newest(line: str) -> str:
    """What a terminal shows of the line: a carriage return begins it anew."""
    return line.rstrip("\r").rpartition("\r")[2]


def _pieces(line: str) -> Iterator[str]:
    most = MAX_LINE_LENGTH - len(CONTINUES)
    while len(line) > MAX_LINE_LENGTH:
        yield line[:most] + CONTINUES
        line = line[most:]
    yield line


def _write_all(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(OSError):  # the former stream may be closed, the log goes on
        while content:
            content = content[os.write(descriptor, content) :]
