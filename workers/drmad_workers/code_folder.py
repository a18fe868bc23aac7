"""The files of a job's code, in a folder that belongs to one process."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from drmad_client.files import code_archive
from drmad_workers.errors import ProblemError

_UNLOCKED_S = 3600.0
"""Age from which a folder without a lock was left by a process that ended early, in seconds."""

_folders: dict[str, Path] = {}
"""The folders of this process by the digest of their archive."""


def unpacked(content: bytes, temporary: Path | None = None) -> Path:
    """The folder with the files of the archive, which this process alone unpacked.

    The temporary folder of a machine is open to all of its users, so nothing that lies there is
    used: not even a folder that an earlier process left for the same archive. Folders of processes
    that ended are removed.

    Args:
        temporary: the machine's temporary folder by default.
    Raises:
        ProblemError: the archive is damaged, or it is not safe to unpack.
    """
    digest = hashlib.sha256(content).hexdigest()
    if (known := _folders.get(digest)) is not None and known.is_dir():
        return known
    base = _private(temporary or Path(tempfile.gettempdir()))
    _remove_abandoned(base)
    folder = Path(tempfile.mkdtemp(dir=base))
    # The lock ends with the process, and with the processes that it forked.
    lock = os.open(folder / "new", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "new").rename(folder / "lock")  # others see the file once it is locked
    code = folder / "code"
    code.mkdir()
    try:
        code_archive.unpack(content, code)
    except code_archive.CodeError as error:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        raise ProblemError(str(error), "problem.code") from error
    atexit.register(_remove, folder, os.getpid())
    _folders[digest] = code
    return code


def _private(temporary: Path) -> Path:
    """A folder that no other user can write to; one of another name if somebody took the name."""
    base = temporary / f"drmad-code-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        base.mkdir(parents=True, mode=0o700)
    found = base.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        base.chmod(0o700)
        return base
    return Path(tempfile.mkdtemp(dir=temporary, prefix=f"{base.name}-"))


def _remove_abandoned(base: Path) -> None:
    for folder in base.iterdir():
        try:
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:
            if _age_s(folder) > _UNLOCKED_S:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # its process lives
        finally:
            os.close(lock)


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.lstat().st_mtime
    except FileNotFoundError:  # another process removed it
        return 0.0


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked process must not take the folder from its parent
        shutil.rmtree(folder, ignore_errors=True)
