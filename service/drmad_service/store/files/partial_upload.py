"""Uploads in parts: a file that grows over several requests, and goes on where one broke off."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from drmad_service.errors import DiskRefuses
from drmad_service.store.files.received_file import WrongDigest

PREFIX = "part-"
_PIECE_BYTES = 1 << 20
_ABANDONED_S = 24 * 3600.0
"""Age of the last piece from which an upload in parts counts as given up, in seconds."""


class WrongOffset(Exception):
    """A part begins elsewhere than where the upload stands, or another request appends to it."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True)
class PartialUpload:
    """The upload of one file by one tenant."""

    folder: Path
    sha256: str
    tenant: str

    @property
    def path(self) -> Path:
        owner = hashlib.sha256(self.tenant.encode()).hexdigest()[:16]
        return self.folder / f"{PREFIX}{self.sha256}-{owner}"

    @property
    def offset(self) -> int:
        """The bytes that have arrived."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    async def append(self, offset: int, length: int, pieces: AsyncIterator[bytes]) -> int:
        """Append a part. What arrives before its connection breaks is kept. Returns the offset.

        Args:
            offset: where the part begins in the file.
            length: the bytes of the whole file, beyond which nothing is taken.
        Raises:
            WrongOffset: the upload stands elsewhere, or another request appends to it.
            WrongDigest: the part reaches beyond the end of the file.
            DiskRefuses: the disk is full, or denies the right.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self.path, "ab", opener=_private) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    message = "another request sends a part of this file; wait for its end"
                    raise WrongOffset(message, file.tell()) from None
                if (stands := file.tell()) != offset:
                    if not stands:
                        self.abandon()
                    message = f"the upload stands at byte {stands}, got a part from byte {offset}"
                    raise WrongOffset(message, stands)
                waiting = bytearray()
                try:
                    async for piece in pieces:
                        waiting += piece
                        if stands + len(waiting) > length:
                            waiting.clear()
                            raise WrongDigest(
                                f"the parts must have {length} bytes together, got more"
                            )
                        if len(waiting) >= _PIECE_BYTES:
                            stands += await asyncio.to_thread(file.write, bytes(waiting))
                            waiting.clear()
                finally:
                    stands += file.write(waiting)
                    file.flush()
                    if not stands:
                        self.abandon()
                return stands
        except OSError as error:
            raise DiskRefuses(error) from error

    async def finish(self) -> Path:
        """The complete file, whose digest is that of its name; another one is removed.

        Raises:
            WrongDigest
        """
        found = await asyncio.to_thread(_digest, self.path)
        if found != self.sha256:
            self.abandon()
            raise WrongDigest(
                f"the sha256 of all parts is {found}, not that of the path; the upload is removed, "
                "begin again at byte 0"
            )
        return self.path

    def abandon(self) -> None:
        """Remove what has arrived."""
        self.path.unlink(missing_ok=True)


def remove_abandoned_parts(folder: Path, age_s: float = _ABANDONED_S) -> int:
    """Remove uploads in parts to which nothing was appended for so long. Returns how many."""
    removed = 0
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > age_s:
                path.unlink()
                removed += 1
    return removed


def bytes_in_parts(folder: Path, tenant: str) -> int:
    """The bytes of a tenant's uploads in parts, which count for its quota."""
    total = 0
    for path in folder.glob(f"{PREFIX}*-{PartialUpload(folder, '', tenant).path.name[-16:]}"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
