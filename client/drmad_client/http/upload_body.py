"""Turns what a user calls a data set into a digest and a request body."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DataSource = Path | str | Mapping[str, Any]
"""The path of a file of arrays (npz, safetensors) or of a table (CSV, Parquet), or NumPy arrays by
name."""


def digest_and_body(source: DataSource) -> tuple[str, bytes | Path]:
    """The SHA-256 digest of the data set in hexadecimal, and the body to upload.

    Raises:
        DataError: The file does not exist, or holds neither arrays of numbers nor a table.
    """
    # Loading NumPy takes a tenth of a second, and most commands of the CLI do not need it.
    from drmad_client.files import array_file, data_file

    if isinstance(source, Mapping):
        content = array_file.pack(source)
        return hashlib.sha256(content).hexdigest(), content
    path = Path(source)
    if not path.is_file():
        raise array_file.DataError(f"{path} is not a file; give a file of arrays or a table")
    data_file.check(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path
