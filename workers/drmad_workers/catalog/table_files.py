"""Reads CSV and Parquet files into columns, without trust: sizes are bounded and nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drmad_client.files import table_file
from drmad_client.files.array_file import DataError
from drmad_workers.errors import ProblemError

if TYPE_CHECKING:
    import pandas as pd

MAX_BYTES = 8 << 30
"""Bounds a CSV file, and the columns of a Parquet file in memory, in bytes."""
BATCH_ROWS = 1 << 16
"""The rows of a Parquet file that are read at a time."""


class TableFile:
    """A CSV or Parquet file.

    Attributes:
        names: the names of its columns.
    """

    def __init__(self, path: Path, field: str) -> None:
        """`field` is the field of the job that names the file.

        Raises:
            ProblemError: the file is neither, is damaged, or exceeds a limit.
        """
        self._path = path
        self._field = field
        self._delimiter = ","
        self.is_parquet = False
        try:
            table_file.check(path)
            self.is_parquet = table_file.is_parquet(path)
            if self.is_parquet:
                self.names = self._parquet_names()
            else:
                self._delimiter, self.names = table_file.header(path)
        except DataError as error:
            raise ProblemError(str(error), field) from error

    def read(self, names: Sequence[str]) -> pd.DataFrame:
        """The columns of these names; those of a CSV file are text.

        Raises:
            ProblemError: the file is damaged, or exceeds MAX_BYTES.
        """
        return self._read_parquet(names) if self.is_parquet else self._read_csv(names)

    def _read_csv(self, names: Sequence[str]) -> pd.DataFrame:
        import pyarrow as pa
        from pyarrow import csv

        self._require_size(self._path.stat().st_size)
        try:
            table = csv.read_csv(
                self._path,
                csv.ReadOptions(use_threads=False),  # errors then have the number of the row
                csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                csv.ConvertOptions(
                    include_columns=list(names),
                    column_types=dict.fromkeys(names, pa.string()),
                    strings_can_be_null=True,
                ),
            )
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise ProblemError(
                "every row of a CSV file must be UTF-8 text with one value for each of the "
                f"{len(self.names)} columns of the header: {error}",
                self._field,
            ) from error
        frame: pd.DataFrame = table.to_pandas()
        return frame

    def _parquet_names(self) -> list[str]:
        schema = self._opened().schema_arrow
        names: list[str] = list(schema.names)
        if len(names) > table_file.MAX_COLUMNS or len(set(names)) < len(names):
            raise ProblemError(
                f"a Parquet file must have at most {table_file.MAX_COLUMNS} columns of names that "
                f"differ, got {len(names)}",
                self._field,
            )
        return names

    def _read_parquet(self, names: Sequence[str]) -> pd.DataFrame:
        import pyarrow as pa

        file, size, batches = self._opened(), 0, []
        try:
            for batch in file.iter_batches(BATCH_ROWS, columns=list(names), use_threads=False):
                size += batch.nbytes
                self._require_size(size)
                batches.append(batch)
            schema = pa.schema([file.schema_arrow.field(name) for name in names])
            table = pa.Table.from_batches(batches, batches[0].schema if batches else schema)
            nested = [name for name in names if pa.types.is_nested(table.schema.field(name).type)]
            if nested:
                raise ProblemError(
                    f"column {nested[0]!r} must hold one value per row, got "
                    f"{table.schema.field(nested[0]).type}: list it in ignore",
                    self._field,
                )
            frame: pd.DataFrame = table.select(list(names)).to_pandas(ignore_metadata=True)
        except (pa.ArrowException, OSError) as error:
            raise ProblemError(f"the Parquet file is damaged: {error}", self._field) from error
        return frame

    def _opened(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self._path)
        except (pa.ArrowException, OSError) as error:
            raise ProblemError(f"the Parquet file is damaged: {error}", self._field) from error

    def _require_size(self, size: int) -> None:
        if size > MAX_BYTES:
            raise ProblemError(
                f"a table must take at most {MAX_BYTES} bytes, got at least {size}: leave columns "
                "out by ignore, or rows",
                self._field,
            )
