"""What users send beside their jobs: `client.code` and `client.data`."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drmad_client.http.async_client import AsyncClient
    from drmad_client.http.client import Client

_PIECE_BYTES = 1 << 20

DataLike = Path | str | Mapping[str, Any]
"""An npz or safetensors file, or arrays by name."""


class CodeUploads:
    """The user's own code: `client.code`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def upload(self, folder: Path | str) -> str:
        """Pack a folder of your code and send it, unless it is there; see `files.code_archive`.

        Returns:
            What a spec's problem.code takes: sha256:<digits>.
        Raises:
            CodeError: it cannot be packed, such as one that is too large.
        """
        from drmad_client.files.code_archive import (
            pack,  # what reads .gitignore's syntax takes its time
        )

        return self._client._run(self._client._flows.upload_code(pack(Path(folder))))


class AsyncCodeUploads:
    """The user's own code: `Code`, awaited."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def upload(self, folder: Path | str) -> str:
        """As `Code.upload`."""
        import asyncio

        from drmad_client.files.code_archive import pack

        archive = await asyncio.to_thread(pack, Path(folder))
        return await self._client._run(self._client._flows.upload_code(archive))


class DataUploads:
    """The user's own data: `client.data`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def upload(self, data: DataLike) -> str:
        """Send a data set, unless it is there.

        `data`: an npz or safetensors file, or NumPy arrays by name. A model of the catalog takes
        `inputs` (examples, ...) and `targets` (examples,), classes 0, 1, ...; and where the data
        have a test part of their own, `test_inputs` and `test_targets`. Your own code takes any
        names.

        Returns:
            What a spec's problem.data takes: sha256:<digits>.
        Raises:
            DataError: no such file, or not numbers alone.
        """
        return self._client._run(self._client._flows.upload_data(*_checked(data)))


class AsyncDataUploads:
    """The user's own data: `Data`, awaited."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def upload(self, data: DataLike) -> str:
        """As `Data.upload`."""
        import asyncio

        checked = await asyncio.to_thread(_checked, data)
        return await self._client._run(self._client._flows.upload_data(*checked))


def _checked(data: DataLike) -> tuple[str, bytes | Path]:
    """The digest, and what to send."""
    from drmad_client.files import array_file

    if isinstance(data, Mapping):
        content = array_file.pack(data)
        return hashlib.sha256(content).hexdigest(), content
    path = Path(data)
    if not path.is_file():
        raise array_file.DataError(f"{path} is not a file; give an npz or safetensors file")
    array_file.check(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path


def pieces(path: Path) -> Iterator[bytes]:
    """A file, as a synchronous client sends it."""
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


async def async_pieces(path: Path) -> AsyncIterator[bytes]:
    """The same for one on asyncio. A local disk gives a megabyte in less than a context switch."""
    for piece in pieces(path):
        yield piece
