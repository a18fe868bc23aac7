"""Uploaded data sets: files named by the digest of their bytes, in a folder that workers share."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from drmad_client.files import array_file

_PIECE_BYTES = 1 << 20
"""Written at once, in a thread: a disk may be slow."""


def data_folder(data_dir: Path | None, home: Path) -> Path:
    """Where uploaded data sets are kept: in the home where nothing else is said."""
    return (data_dir or home / "data").expanduser().resolve()


class WrongDigest(Exception):
    """The bytes are not those that their name promises."""


class DataFolder:
    """The folder of one setting. Files appear whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        return self._folder / sha256

    def holds(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    async def put(self, sha256: str, pieces: AsyncIterator[bytes]) -> int:
        """Keep what comes piece by piece, once it is all there and in order. Returns its size.

        Raises:
            WrongDigest: the bytes belong to another name.
            DataError: they are no npz or safetensors file that may be opened.
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
                    f"the body's sha256 is {digest.hexdigest()}; put it under that name"
                )
            await asyncio.to_thread(array_file.check, being_written)
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
