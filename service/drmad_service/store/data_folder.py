"""Uploaded data sets and weights: files named by digest, in a folder that the workers share."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from drmad_client.files import data_file

_PIECE_BYTES = 1 << 20
"""Size of one write, which runs in a thread because a disk may be slow."""


def data_folder(data_dir: Path | None, home: Path) -> Path:
    """The folder of uploaded data sets: `data_dir`, or `data` in the home."""
    return (data_dir or home / "data").expanduser().resolve()


class WrongDigest(Exception):
    """The digest of the bytes differs from their name."""


class DataFolder:
    """Data sets in one folder. A file appears completely or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        return self._folder / sha256

    def holds(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    async def put(self, sha256: str, pieces: AsyncIterator[bytes]) -> int:
        """Keep a file that arrives in pieces, once it is complete and valid. Returns its bytes.

        Raises:
            WrongDigest: the digest of the bytes is not `sha256`.
            DataError: the file holds neither arrays nor a table; see data_file.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix="upload-")
        being_written = Path(name)
        digest, size, waiting = hashlib.sha256(), 0, bytearray()

        def write() -> None:
            digest.update(waiting)
            file.write(waiting)

        try:
            with os.fdopen(descriptor, "wb") as file:
                async for piece in pieces:
                    waiting += piece
                    size += len(piece)
                    if len(waiting) >= _PIECE_BYTES:
                        await asyncio.to_thread(write)
                        waiting.clear()
                write()
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            if digest.hexdigest() != sha256:
                raise WrongDigest(
                    f"the sha256 of the body is {digest.hexdigest()}, not that of the path; "
                    "send the body to its own digest"
                )
            await asyncio.to_thread(data_file.check, being_written)
            being_written.chmod(0o640)
            being_written.replace(self.path(sha256))
        finally:
            being_written.unlink(missing_ok=True)
        return size

    def size(self, sha256: str) -> int:
        return self.path(sha256).stat().st_size

    def remove(self, sha256: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path(sha256).unlink()
