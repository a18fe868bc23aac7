"""The directory of a zip archive from an untrusted user, judged before it is parsed."""

from __future__ import annotations

import zipfile
from typing import IO, Any

MAX_DIRECTORY_BYTES = 10 << 20
"""Maximum size of a directory, in bytes: 10,000 entries whose names and comments take 1 KB."""

_ENTRY = b"PK\x01\x02"
"""Begins each entry of a directory."""
_END64 = b"PK\x06\x06"
_END64_BYTES = 76
"""Size of the two records that follow the directory of a large archive, in bytes."""


def most_entries(file: IO[bytes]) -> int:
    """An upper bound of the number of entries that `zipfile.ZipFile` would read.

    ZipFile allocates about 1 KB for an entry of 46 bytes, and ignores the number of entries that
    the archive states. So the bound counts the marks of entries in the bytes of the directory.

    Args:
        file: the archive, open for reading at any position.
    Raises:
        zipfile.BadZipFile: the file is no zip archive, or its directory exceeds
            `MAX_DIRECTORY_BYTES`.
    """
    # The function that ZipFile itself calls: a reading of our own could find another directory.
    end: list[Any] | None = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if not end:
        raise zipfile.BadZipFile("File is not a zip file")
    size, end_at = end[5], end[9]
    if size > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(
            f"the directory of the archive must take at most {MAX_DIRECTORY_BYTES} bytes, it takes "
            f"{size}"
        )
    start = end_at - size - (_END64_BYTES if end[0] == _END64 else 0)
    file.seek(max(0, start))
    return file.read(size).count(_ENTRY)
