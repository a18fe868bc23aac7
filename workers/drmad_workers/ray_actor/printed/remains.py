"""The newest output of a worker, in files that outlive it.

A worker that is killed by a signal returns nothing more, and its last words lie in its pipes. They
are moved from each pipe into a file by one system call, so that they are always in one of the two.
A process of its own holds the pipes open: as the worker ends, it writes their rest beside the file.
Whoever notices the death reads both on the worker's node.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from drmad_workers.ray_actor.printed.lines import LineReader

SEGMENT_BYTES = 4 << 20
"""A file has about this size at most; the last two of a stream are kept."""

_KEPT_S = 600.0
END_S = 2.0
"""How long the rest of an output may take to be written after the end of its worker."""
_POLL_S = 0.02

# The descriptors 0, 1 and 2 are the ends for reading of three pipes: one that only the worker
# holds open, its standard output, and its standard error, which do not block.
_KEEPER = (
    "umask 077; exec 3<&0; (read -r gone <&3; "  # what runs in the background has no descriptor 0
    'cat <&1 >"$0.1.rest" 2>/dev/null; cat <&2 >"$0.2.rest" 2>/dev/null; : >"$0.ended") &'
)


class Remains:
    """The files of one stream."""

    def __init__(self, name: str, stream: int) -> None:
        self._base = _base(name)
        self._stream = stream
        self._begin = self._size = 0
        self._files: list[Path] = []
        self._file = -1
        self._turn()

    def move(self, pipe: int, most: int) -> bytes:
        """Move what the pipe holds into the file, and return it.

        Raises:
            BlockingIOError: the pipe is empty.
        """
        if self._size >= SEGMENT_BYTES:
            self._turn()
        if self._file < 0 or not hasattr(os, "splice"):
            return os.read(pipe, most)
        try:
            count = os.splice(
                pipe, self._file, most, offset_dst=self._size, flags=os.SPLICE_F_NONBLOCK
            )
        except BlockingIOError:
            raise
        except OSError:  # a full disk, or a file system without this call: the output goes on
            return os.read(pipe, most)
        part = os.pread(self._file, count, self._size)
        self._size += count
        return part

    def _turn(self) -> None:
        """Begin the next file, and remove the last but one."""
        self._begin += self._size
        self._size = 0
        with contextlib.suppress(OSError):
            if self._file >= 0:
                os.close(self._file)
            self._file = -1
            path = self._base.with_name(f"{self._base.name}.{self._stream}.{self._begin}")
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._files.append(path)
            if len(self._files) > 2:
                self._files.pop(0).unlink(missing_ok=True)


def keep(name: str, pipes: Sequence[int]) -> None:
    """Start the process that holds the pipes of this one open until it ends."""
    _sweep()
    reading, _writing = os.pipe()  # the end for writing stays open as long as this process lives
    try:
        # The shell starts the keeper in the background and ends: it is no child of this process,
        # whose user may wait for children, and Ray ends those of its workers.
        subprocess.run(
            ["/bin/sh", "-c", _KEEPER, str(_base(name))],
            stdin=reading,
            stdout=pipes[0],
            stderr=pipes[1],
            start_new_session=True,
            check=False,
        )
    except OSError:  # no shell, or no further process: only the last words of a crash are lost
        pass
    finally:
        os.close(reading)


def read_remains(name: str, read: Sequence[int], until: float) -> list[str]:
    """The last lines of a worker of this node that has ended; its files are removed.

    Args:
        name: that of its output.
        read: the bytes of its standard output and error that are read already.
        until: the time of the monotonic clock at which a worker that has not ended counts as alive.
    """
    base = _base(name)
    ended = base.with_name(f"{base.name}.ended")
    while not ended.exists():  # the keeper writes while this process is called, or it never will
        if time.monotonic() >= until:
            return []
        time.sleep(_POLL_S)
    lines = [line for stream in (1, 2) for line in _lines(base, stream, read[stream - 1])]
    for path in base.parent.glob(f"{base.name}.*"):
        path.unlink(missing_ok=True)
    return lines


def _lines(base: Path, stream: int, read: int) -> list[str]:
    parts = {
        int(path.suffix[1:]): path
        for path in base.parent.glob(f"{base.name}.{stream}.*")
        if path.suffix[1:].isdecimal()
    }
    kept = b"".join(parts[begin].read_bytes() for begin in sorted(parts))
    begin = min(parts, default=read)
    with contextlib.suppress(OSError):
        kept += base.with_name(f"{base.name}.{stream}.rest").read_bytes()
    lines = []
    if begin > read:
        lines.append(f"… {begin - read:,} bytes are left out here: the process has ended")
    reader = LineReader()
    return [*lines, *reader.lines(kept[max(0, read - begin) :]), *reader.rest()]


def _base(name: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f"drmad-output-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / name


def _sweep() -> None:
    """Remove what ended workers left some time ago: those that ended as they should have."""
    oldest = time.time() - _KEPT_S
    for ended in _base("").glob("*.ended"):
        with contextlib.suppress(OSError):
            if ended.stat().st_mtime < oldest:
                for path in ended.parent.glob(f"{ended.stem}.*"):
                    path.unlink(missing_ok=True)
