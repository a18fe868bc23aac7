"""Files of data that users upload: arrays (npz, safetensors) or a table (CSV, Parquet)."""

from __future__ import annotations

import zipfile
from pathlib import Path

from drmad_client.files import array_file, table_file
from drmad_client.files.array_file import DataError


def check(path: Path) -> None:
    """Raises DataError unless the file holds arrays or a table; see `array_file`, `table_file`."""
    if zipfile.is_zipfile(path) or _may_be_safetensors(path):
        array_file.check(path)
        return
    try:
        table_file.check(path)
    except DataError as error:
        raise DataError(
            f"expected a complete npz or safetensors file, or a CSV or Parquet file: {error}"
        ) from error


def _may_be_safetensors(path: Path) -> bool:
    """Whether the file begins with the size of a header and the brace of its JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"
