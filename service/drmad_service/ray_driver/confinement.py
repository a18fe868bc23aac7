"""Keeps a process, and all that it starts, from the files and processes of the service.

Linux's Landlock needs no other user and no rights: what a process is not allowed to open it cannot
open again, its user's own files included. Nor can it trace or signal a process outside, so the
memory, the environment and the descriptors of the service are out of its reach. See landlock(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_VERSION = 1 << 0
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS, _DROP_FROM_BOUNDING_SET = 38, 24

_EXECUTE, _WRITE, _READ, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _DEVICE_CONTROL = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _DEVICE_CONTROL
_READING = _EXECUTE | _READ | _READ_FOLDER
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""The rights of files that each version of Landlock knows, from that version on."""
_SIGNALS_AND_ABSTRACT_SOCKETS, _SCOPES_SINCE = 0b11, 6

_DEVICES = {"full", "null", "ptmx", "random", "tty", "urandom", "zero"} | {
    "dri", "dxg", "hugepages", "infiniband", "kfd", "mqueue", "pts", "shm"
}  # fmt: skip
"""What a computation needs of /dev. Disks are not among it: they hold the files."""
_KEPT_CAPABILITIES = {0, 1, 2, 3, 4, 23}
"""Of root: what concerns the owners and modes of files, and the priorities of processes."""


class _Ruleset(ctypes.Structure):
    _fields_ = [
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def is_available() -> bool:
    """Whether this system has Landlock, in a version that also covers truncation."""
    return sys.platform == "linux" and _version() >= 3


def confine(closed: Iterable[Path], readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Close folders to this process, which has one thread yet, and to all its children.

    Files that are made later directly in a parent of a closed folder are closed too, unless they
    are named here.

    Args:
        closed: folders and files with secrets.
        readable, writable: folders that may be read, or also written, wherever they lie.
    Raises:
        OSError: the system refuses it.
    """
    version = _version()
    rights = max(mask for since, mask in _RIGHTS.items() if since <= version)
    scoped = _SIGNALS_AND_ABSTRACT_SOCKETS if version >= _SCOPES_SINCE else 0
    ruleset = _Ruleset(rights, 0, scoped)
    size = ctypes.sizeof(ruleset) if version >= _SCOPES_SINCE else 8
    number = _call(_CREATE, ctypes.byref(ruleset), size, 0)
    found = {path.resolve() for path in closed}
    outermost = {path for path in found if not found & set(path.parents)}
    for path in _outside(outermost):
        _allow(number, path, rights)
    _allow(number, Path("/"), _READ_FOLDER)  # names are no secrets, and programs list folders
    for path in readable:
        _allow(number, path, rights & _READING)
    for path in writable:
        _allow(number, path, rights)
    _drop_capabilities()
    _control(_SET_NO_NEW_PRIVS, 1)
    _call(_RESTRICT, number, 0)
    os.close(number)


def _outside(closed: set[Path]) -> Iterator[Path]:
    """The largest folders and files that hold nothing closed, and of /dev what is needed."""
    dev = Path("/dev")
    divided = {parent for path in closed for parent in path.parents} | {dev}
    for folder in sorted(divided):
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        for entry in entries:
            if entry in divided or entry in closed or entry.is_symlink():
                continue  # a link's target has a path of its own
            if folder == dev and not (entry.name in _DEVICES or entry.name.startswith("nvidia")):
                continue
            yield entry


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it is gone, or closed to this user anyway
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_FILES
        rule = _PathBeneath(rights, opened)
        _call(_ADD, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(opened)


def _drop_capabilities() -> None:
    """Root keeps only rights over files: others lead past Landlock, such as those of the kernel."""
    if os.geteuid() != 0:
        return
    for number in range(64):
        if number not in _KEPT_CAPABILITIES:
            try:
                _control(_DROP_FROM_BOUNDING_SET, number)
            except OSError as error:
                if error.errno != errno.EINVAL:  # the kernel knows no further ones
                    raise
                break
    kept = sum(1 << number for number in _KEPT_CAPABILITIES)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    if _libc().capset(header, data):
        _raise()


def _version() -> int:
    found: int = _libc().syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)
    return max(0, found)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc().syscall(number, *arguments)
    if result < 0:
        _raise()
    return result


def _control(option: int, value: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        _raise()


def _raise() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
