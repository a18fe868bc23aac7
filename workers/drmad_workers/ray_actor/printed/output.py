"""Captures what a worker process prints, so that its lines reach the job's log.

The file descriptors 1 and 2 are captured, not the objects of Python alone: what subprocesses, C
code and os.write put out arrives too, and sys.stdout stays a stream with all its methods.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import secrets
import selectors
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TextIO

from drmad_workers.ray_actor.printed import remains
from drmad_workers.ray_actor.printed.lines import LineReader

MAX_LINES = 100_000
"""Bounds the lines that are kept between two reports; a line says how many are left out."""

_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 16


class Output:
    """The lines that this process prints, from its start on. The former streams get them too.

    Attributes:
        read: the bytes of the standard output and error in the lines that were taken.
    """

    def __init__(self, name: str = "") -> None:
        """`name` is a new one on this node: whoever knows it reads what remains; see remains."""
        name = name or secrets.token_hex(8)
        self.read = (0, 0)
        self._lines: deque[str] = deque()
        self._left_out = 0
        self._lock = threading.RLock()
        self._streams = [
            self._captured(name, 1, sys.stdout),
            self._captured(name, 2, sys.stderr),
        ]
        remains.keep(name, [stream.reading for stream in self._streams])
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
            out, error = self._streams
            self.read = (out.lines.read, error.lines.read)
            return lines

    def complete(self) -> None:
        """Ends the lines that are open: the code that printed them has returned."""
        self._read_all()
        with self._lock:
            for stream in self._streams:
                self._add(stream.lines.rest())

    def _captured(self, name: str, descriptor: int, stream: TextIO) -> _Captured:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        reading, writing = os.pipe()
        with contextlib.suppress(OSError):  # the system may allow less
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        former = os.dup(descriptor)
        os.dup2(writing, descriptor)
        os.close(writing)
        os.set_blocking(reading, False)
        return _Captured(reading, former, remains.Remains(name, descriptor))

    def _follow(self) -> None:
        """Reads as it comes, because a process waits once its pipe is full."""
        with selectors.DefaultSelector() as ready:
            for stream in self._streams:
                ready.register(stream.reading, selectors.EVENT_READ, stream)
            while ready.get_map():
                found = [key.data for key, _ in ready.select()]
                self._read()
                for stream in found:
                    if stream.is_closed:
                        ready.unregister(stream.reading)

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

    def _add(self, lines: Iterable[str]) -> None:
        self._lines.extend(lines)
        while len(self._lines) > MAX_LINES:
            self._lines.popleft()
            self._left_out += 1


class _Captured:
    """One captured descriptor.

    Attributes:
        is_closed: no process has the descriptor any more.
    """

    def __init__(self, reading: int, former: int, kept: remains.Remains) -> None:
        self.reading = reading
        self.lines = LineReader()
        self.is_closed = False
        self._former = former
        self._kept = kept

    def new_lines(self) -> Iterator[str]:
        """The lines that are complete, of at least all bytes that the pipe holds now."""
        taken = 0
        while taken < 2 * _PIPE_BYTES:  # a writer may fill it without end
            try:
                part = self._kept.move(self.reading, _READ_BYTES)
            except BlockingIOError:
                return
            if not part:
                self.is_closed = True
                return
            taken += len(part)
            _write_all(self._former, part)
            yield from self.lines.lines(part)


def _text_stream(descriptor: int) -> io.TextIOWrapper:
    return open(
        descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def _write_all(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(OSError):  # the former stream may be closed, the log goes on
        while content:
            content = content[os.write(descriptor, content) :]
