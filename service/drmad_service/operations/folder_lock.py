"""A lock on a folder, which lasts although somebody deletes the file in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

_HELD = (errno.EWOULDBLOCK, errno.EACCES)


def lock_folder(folder: Path) -> Sequence[int] | None:
    """Descriptors that hold the lock until they are closed; None while others hold it.

    The folder itself is locked, and the file `lock` in it: releases before the next one know only
    the file, and some network file systems lock only files.
    """
    held: list[int] = []
    for path, flags in (
        (folder, os.O_RDONLY | os.O_DIRECTORY),
        (folder / "lock", os.O_RDWR | os.O_CREAT),
    ):
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        held.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if path == folder and error.errno not in _HELD:
                continue
            unlock(held)
            return None
    return held


def unlock(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def is_same(folder: Path, descriptors: Sequence[int]) -> bool:
    """Whether the folder is still the one that was locked, and neither deleted nor replaced."""
    try:
        now, locked = folder.stat(), os.fstat(descriptors[0])
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (locked.st_dev, locked.st_ino)
