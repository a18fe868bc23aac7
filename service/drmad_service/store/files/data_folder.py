"""Uploaded data sets and weights: files named by digest, in a folder that the workers share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from drmad_service.errors import ArtifactsFail, DiskRefuses
from drmad_service.store.files.partial_upload import (
    PartialUpload,
    bytes_in_parts,
    remove_abandoned_parts,
)
from drmad_service.store.files.received_file import PREFIX, received_file
from drmad_workers.artifacts.artifact import ArtifactError
from drmad_workers.artifacts.store import ArtifactStore

T = TypeVar("T")

_ABANDONED_S = 3600.0
"""Age of the last piece from which an upload counts as broken off, in seconds."""


def data_folder(data_dir: Path | None, home: Path) -> Path:
    """The folder of uploaded data sets: `data_dir`, or `data` in the home."""
    return (data_dir or home / "data").expanduser().resolve()


class DataFolder:
    """Data sets in one folder. A file appears completely or not at all.

    Beside an artifact store elsewhere, such as a bucket, each file is copied there too: workers and
    other APIs need not share the folder.
    """

    def __init__(self, folder: Path, artifacts: ArtifactStore | None = None) -> None:
        self._folder = folder
        is_same = artifacts is not None and artifacts.folder == folder
        self._artifacts = None if is_same else artifacts

    def path(self, sha256: str) -> Path:
        return self._folder / sha256

    def holds(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    async def is_kept(self, sha256: str) -> bool:
        """Whether the file is in the folder or in the artifact store.

        Raises:
            ArtifactsFail: the artifact store does not answer.
        """
        if self.holds(sha256) or self._artifacts is None:
            return self.holds(sha256)
        return await self._of_artifacts(lambda store: store.holds(sha256))

    async def _copy(self, sha256: str) -> None:
        path = self.path(sha256)
        await self._of_artifacts(lambda store: store.put(path, sha256))

    async def _of_artifacts(self, work: Callable[[ArtifactStore], T]) -> T | bool:
        """What the artifact store answers; False where there is none beside the folder.

        Raises:
            ArtifactsFail
        """
        if self._artifacts is None:
            return False
        try:
            return await asyncio.to_thread(work, self._artifacts)
        except ArtifactError as error:
            raise ArtifactsFail(str(error)) from error

    async def put(
        self,
        sha256: str,
        pieces: AsyncIterator[bytes],
        check: Callable[[Path], Awaitable[None]],
    ) -> int:
        """Keep a file that arrives in pieces, once it is complete and valid. Returns its bytes.

        Args:
            check: raises for a file that is not to be kept.
        Raises:
            WrongDigest: the digest of the bytes is not `sha256`.
            DiskRefuses: the disk is full, or denies the right.
            ArtifactsFail: the artifact store beside the folder does not take it.
        """
        async with self.received(sha256, pieces) as path:
            await check(path)
            path.chmod(0o640)
            path.replace(self.path(sha256))
        await self._copy(sha256)
        return self.size(sha256)

    def received(
        self, sha256: str, pieces: AsyncIterator[bytes]
    ) -> AbstractAsyncContextManager[Path]:
        """A complete file in this folder, removed at the end unless it was moved.

        Raises:
            WrongDigest: the digest of the bytes is not `sha256`.
            DiskRefuses: the disk is full, or denies the right.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DiskRefuses(error) from error
        return received_file(sha256, pieces, self._folder)

    def partial(self, sha256: str, tenant: str) -> PartialUpload:
        """The upload in parts of a file."""
        return PartialUpload(self._folder, sha256, tenant)

    def bytes_in_parts(self, tenant: str) -> int:
        return bytes_in_parts(self._folder, tenant)

    async def keep_complete(
        self, upload: PartialUpload, check: Callable[[Path], Awaitable[None]]
    ) -> None:
        """Keep a file whose parts have all arrived, once it is valid.

        Args:
            check: raises for a file that is not to be kept, which is removed.
        Raises:
            WrongDigest: the digest of the bytes is not that of the name.
            ArtifactsFail: the artifact store beside the folder does not take it.
        """
        path = await upload.finish()
        try:
            await check(path)
        except Exception:
            upload.abandon()
            raise
        path.chmod(0o640)
        path.replace(self.path(upload.sha256))
        await self._copy(upload.sha256)

    def remove_abandoned(self) -> None:
        """Remove what arrived of uploads that were broken off or given up."""
        remove_abandoned_parts(self._folder)
        for path in self._folder.glob(f"{PREFIX}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()

    def size(self, sha256: str) -> int:
        return self.path(sha256).stat().st_size

    def size_or_none(self, sha256: str) -> int:
        """The bytes of a data set; 0 for one that is gone."""
        return self.size(sha256) if self.holds(sha256) else 0

    def remove(self, sha256: str) -> None:
        """Remove a data set here and in the artifact store.

        Raises:
            ArtifactError: the artifact store fails.
        """
        with contextlib.suppress(FileNotFoundError):
            self.path(sha256).unlink()
        if self._artifacts is not None:
            self._artifacts.remove([sha256])
