"""A file of a job as the API sends it: its size, its digest and its bytes in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from drmad_service.errors import ResultNotFound
from drmad_service.store.access.large_values import Blobs, artifact_of


@dataclass(frozen=True)
class StoredFile:
    """A safetensors file in Redis or in the artifact store."""

    blobs: Blobs
    job_id: str
    names: Sequence[str]
    size: int
    sha256: str

    @classmethod
    async def of(
        cls,
        blobs: Blobs,
        job_id: str,
        names: Sequence[str],
        size: int | None = None,
        sha256: str | None = None,
    ) -> StoredFile:
        """The file with these names; a file of an earlier version is read for size and digest.

        Raises:
            ResultNotFound: it is no longer kept.
        """
        if (artifact := artifact_of(names)) is not None:
            size, sha256 = artifact.size, artifact.sha256
        if size is None or sha256 is None:
            content = await blobs.get(job_id, names)
            size, sha256 = len(content), hashlib.sha256(content).hexdigest()
        return cls(blobs, job_id, names, size, sha256)

    async def content(self) -> bytes:
        """The whole file; `pieces` is for those that do not fit the memory.

        Raises:
            ResultNotFound: it is no longer kept, or damaged.
        """
        return b"".join([piece async for piece in self.pieces(0, self.size)])

    async def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `end`.

        Of the whole file the digest is compared before the last piece is given.

        Raises:
            ResultNotFound: the file is no longer kept, or damaged.
        """
        is_whole = (start, end) == (0, self.size)
        digest, done = hashlib.sha256(), start
        async for piece in self.blobs.pieces(self.job_id, self.names, start, end):
            done += len(piece)
            if is_whole:
                digest.update(piece)
                if done == end and digest.hexdigest() != self.sha256:
                    raise ResultNotFound(
                        f"this result of job {self.job_id} is damaged: its digest differs"
                    )
            yield piece
