"""Files of tables, CSV or Parquet, from untrusted users: what can be told without a parser."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from drmad_client.files.array_file import DataError

MAX_COLUMNS = 10_000
"""Maximum number of columns of a table."""
MAX_HEADER_BYTES = 1 << 22
"""Maximum size of the header line of a CSV file, in bytes."""

_PARQUET = b"PAR1"
_DELIMITERS = ("\t", ";", ",")


def is_parquet(path: Path) -> bool:
    """Whether the file begins as Parquet files do."""
    with path.open("rb") as file:
        return file.read(4) == _PARQUET


def check(path: Path) -> None:
    """Raises DataError unless the file is a Parquet file, or a CSV file with a header.

    The numbers are not read, and of a Parquet file only the marks at both ends.
    """
    if not is_parquet(path):
        header(path)
        return
    with path.open("rb") as file:
        size = path.stat().st_size
        file.seek(max(0, size - 8))
        footer, mark = int.from_bytes(file.read(4), "little"), file.read(4)
    if mark != _PARQUET or not 0 < footer <= size - 12:
        raise DataError("expected a complete Parquet file: its end is missing or damaged")


def header(path: Path) -> tuple[str, list[str]]:
    """The delimiter and the column names of a CSV file.

    The delimiter is the one of tab, semicolon and comma that the first line has most often outside
    quotes; of equally many the first.

    Raises:
        DataError: the file is no UTF-8 text, has fewer than two columns or more than
            `MAX_COLUMNS`, or two columns of one name.
    """
    with path.open("rb") as file:
        line = file.readline(MAX_HEADER_BYTES)
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"expected a CSV file in UTF-8: {error}") from error
    delimiter = max(_DELIMITERS, key=re.sub('"[^"]*"', "", text).count)
    try:
        names = next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error as error:
        raise DataError(f"expected a CSV file with a header: {error}") from error
    if not 2 <= len(names) <= MAX_COLUMNS or "\0" in text or len(line) == MAX_HEADER_BYTES:
        raise DataError(
            f"expected a CSV file with a header of 2 to {MAX_COLUMNS} columns, got {len(names)}"
        )
    wrong = [name for name, count in Counter(names).items() if count > 1 or not name]
    if wrong:
        raise DataError(
            f"the columns of a CSV file must have names that differ, got {wrong[0]!r} "
            "twice or empty: rename them"
        )
    return delimiter, names
