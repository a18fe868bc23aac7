"""A temporary folder of workers: theirs alone, and removed even after processes were killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "drmad-w"
_MOST_CHARACTERS = 24
"""Ray's sockets lie some 75 characters below the folder, and the kernel takes 107."""


@contextmanager
def temporary_folder(owner: int | None = None) -> Iterator[Path]:
    """A new folder for a process that runs user code, and for Ray; removed at the end.

    Its lock is held as long as this process lives; the next call removes the folders of those that
    were killed.

    Args:
        owner: the user to whom it belongs; None for this process's own.
    """
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _MOST_CHARACTERS:
        base = Path("/tmp")
    prefix = f"{_PREFIX}{os.geteuid()}-"
    for left in base.glob(f"{prefix}*"):
        _remove_abandoned(left)
    folder = Path(tempfile.mkdtemp(dir=base, prefix=prefix))
    lock = os.open(_lock_of(folder), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if owner is not None:
        os.chown(folder, owner, -1)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _lock_of(folder).unlink(missing_ok=True)
        os.close(lock)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove_abandoned(left: Path) -> None:
    """Remove a folder unless a process holds its lock."""
    if left.suffix == ".lock":
        return
    try:
        lock = os.open(_lock_of(left), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return  # it is being made, or is not ours
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)
        _lock_of(left).unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
