"""A safetensors file of a job, of which single tensors are read, whole or in parts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drmad_service.errors import ResultNotFound
from drmad_service.store.files.stored_file import StoredFile

DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_HEADER_BYTES = 100 << 20
"""The largest header that the format allows."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: where its values lie in the file."""

    file: StoredFile
    dtype: str
    shape: list[int]
    start: int
    end: int

    @property
    def size(self) -> int:
        return (self.end - self.start) // DTYPES[self.dtype].itemsize

    async def values(self, first: int = 0, count: int | None = None) -> NDArray[np.floating[Any]]:
        """Values from `first` on in row-major order, without the shape; fewer at the end.

        Raises:
            ResultNotFound: the file is no longer kept.
        """
        kind = DTYPES[self.dtype]
        begin = min(self.start + first * kind.itemsize, self.end)
        end = self.end if count is None else min(begin + count * kind.itemsize, self.end)
        content = b"".join([piece async for piece in self.file.pieces(begin, end)])
        return np.frombuffer(content, kind)

    def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes, one piece at a time."""
        return self.file.pieces(self.start, self.end)


async def tensors_of(file: StoredFile) -> dict[str, StoredTensor]:
    """The tensors of a file by name, of which only the header is read.

    Raises:
        ResultNotFound: it is no longer kept, or no safetensors file.
    """
    try:
        length = int.from_bytes(await _bytes(file, 0, 8), "little")
        if length > min(_HEADER_BYTES, file.size):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(await _bytes(file, 8, 8 + length))
        found = {}
        for name, described in header.items():
            if name != "__metadata__" and described["dtype"] in DTYPES:
                start, end = (8 + length + offset for offset in described["data_offsets"])
                shape = described["shape"]
                found[name] = StoredTensor(file, described["dtype"], shape, start, end)
    except (ValueError, KeyError, TypeError) as error:
        message = f"a result of job {file.job_id} is damaged: {type(error).__name__}: {error}"
        raise ResultNotFound(message) from error
    return found


async def _bytes(file: StoredFile, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in file.pieces(start, min(end, file.size))])
