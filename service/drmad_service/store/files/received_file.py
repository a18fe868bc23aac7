"""A file that arrives in pieces: written to the disk as it comes, never whole in memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from drmad_service.errors import DiskRefuses

PREFIX = "upload-"
"""Begins the name of a file that is not complete yet."""
_PIECE_BYTES = 1 << 20
"""Size of one write, which runs in a thread because a disk may be slow."""


class WrongDigest(Exception):
    """The digest of the bytes differs from their name."""


@contextlib.asynccontextmanager
async def received_file(
    sha256: str, pieces: AsyncIterator[bytes], folder: Path
) -> AsyncIterator[Path]:
    """The complete file, which is removed at the end unless it was moved.

    Args:
        folder: where the file lies.
    Raises:
        WrongDigest: the digest of the bytes is not `sha256`.
        DiskRefuses: the disk is full, or denies the right.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=PREFIX)
    except OSError as error:
        raise DiskRefuses(error) from error
    path = Path(name)
    digest, waiting = hashlib.sha256(), bytearray()

    def write() -> None:
        digest.update(waiting)
        file.write(waiting)

    try:
        try:
            with os.fdopen(descriptor, "wb") as file:
                async for piece in pieces:
                    waiting += piece
                    if len(waiting) >= _PIECE_BYTES:
                        await asyncio.to_thread(write)
                        waiting.clear()
                write()
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
        except OSError as error:
            raise DiskRefuses(error) from error
        if digest.hexdigest() != sha256:
            raise WrongDigest(
                f"the sha256 of the body is {digest.hexdigest()}, not that of the path; "
                "send the body to its own digest"
            )
        yield path
    finally:
        path.unlink(missing_ok=True)
