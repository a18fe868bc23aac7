"""Files of an attribution: the influence of every training row on every query."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from drmad_client.errors import DrmadError, UsageError
from drmad_client.files.array_file import DataError

if TYPE_CHECKING:
    import pandas

SUFFIXES = (".safetensors", ".csv", ".parquet")


@dataclass(frozen=True, eq=False)
class InfluenceScores:
    """The influence of N training rows on Q queries.

    The influence of row i on query q is the change of q to first order when row i is left out of
    the training: positive where the row helps, for a query whose lower values are better.

    Attributes:
        queries: the names of the queries.
        influence: shape (Q, N), float32; column i belongs to row i of the training data.
        values: the value of every query, shape (Q,), float64.
        groups: by name, such as `class` or the name of a column, the group of every row as a
            number, shape (N,), int64; -1 for none.
        labels: by the same names, the label of every group.
    """

    queries: Sequence[str]
    influence: NDArray[np.float32]
    values: NDArray[np.float64]
    groups: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """N."""
        return int(self.influence.shape[1])

    def of(self, query: str | None = None) -> NDArray[np.float32]:
        """The influence of every row on one query, shape (N,); None takes the first query.

        Raises:
            UsageError: there is no such query.
        """
        if query is not None and query not in self.queries:
            known = ", ".join(self.queries[:20])
            raise UsageError(f"query must be one of {known}, got {query!r}")
        number = 0 if query is None else self.queries.index(query)
        found: NDArray[np.float32] = self.influence[number]
        return found

    def order(self, query: str | None = None) -> NDArray[np.int64]:
        """The rows from the most harmful to the most helpful; equal ones in their order."""
        return np.argsort(self.of(query), kind="stable").astype(np.int64)

    def sums(self, group: str) -> NDArray[np.float64]:
        """The influence of every group of rows together, shape (Q, groups)."""
        numbers = self.groups[group]
        out = np.zeros((len(self.queries), len(self.labels[group])))
        known = numbers >= 0
        for row, influence in zip(out, self.influence, strict=True):
            np.add.at(row, numbers[known], influence[known].astype(np.float64))
        return out

    def label_of(self, group: str, row: int) -> str | None:
        """The label of a row's group; None if it has none."""
        number = int(self.groups[group][row])
        return None if number < 0 else self.labels[group][number]

    def to_pandas(self) -> pandas.DataFrame:
        """One line for each training row: `row`, its groups, and a column for each query.

        Raises:
            ImportError: pandas is not installed; `pip install pandas` installs it.
        """
        import pandas

        return pandas.DataFrame(self._columns())

    def pack(self) -> bytes:
        """The bytes of a safetensors file; `unpack` reads it."""
        from safetensors.numpy import save

        names = list(self.groups)
        arrays: dict[str, NDArray[Any]] = {
            "influence": np.ascontiguousarray(self.influence, np.float32),
            "row": np.arange(self.rows),
            "value": np.ascontiguousarray(self.values, np.float64),
        }
        for number, name in enumerate(names):
            arrays[f"group.{number}"] = np.ascontiguousarray(self.groups[name], np.int64)
        stated = {
            "queries": list(self.queries),
            "groups": [{"name": name, "labels": list(self.labels[name])} for name in names],
        }
        return save(arrays, metadata={"attribution": json.dumps(stated)})

    @classmethod
    def unpack(cls, content: bytes) -> InfluenceScores:
        """Reads what `pack` wrote.

        Raises:
            DataError: the bytes are not such a file.
        """
        from safetensors.numpy import load

        try:
            arrays = load(content)
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            stated = json.loads(header["__metadata__"]["attribution"])
            groups = stated["groups"]
            return cls(
                stated["queries"],
                arrays["influence"],
                arrays["value"],
                {each["name"]: arrays[f"group.{number}"] for number, each in enumerate(groups)},
                {each["name"]: each["labels"] for each in groups},
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"expected the scores of an attribution: {error}") from error

    def write(self, path: Path) -> None:
        """Writes a file in the format of its suffix: .safetensors, .csv or .parquet.

        Raises:
            DrmadError: another suffix, or Parquet without pandas and pyarrow.
        """
        require_suffix(path)
        if path.suffix == ".safetensors":
            path.write_bytes(self.pack())
        elif path.suffix == ".csv":
            path.write_text(self.to_csv(), encoding="utf-8")
        else:
            try:
                self.to_pandas().to_parquet(path, index=False)
            except ImportError as error:
                raise DrmadError(
                    f"Parquet needs pandas and pyarrow ({error}): pip install pandas pyarrow, or "
                    "write .csv or .safetensors"
                ) from error

    def to_csv(self) -> str:
        """The lines of `to_pandas` as CSV, with a header."""
        columns = self._columns()
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
        return file.getvalue()

    def _columns(self) -> dict[str, NDArray[Any]]:
        columns: dict[str, NDArray[Any]] = {"row": np.arange(self.rows)}
        for name, numbers in self.groups.items():
            known = np.array([*self.labels[name], ""], dtype=object)
            columns[name] = known[np.where(numbers < 0, len(known) - 1, numbers)]
        for query, influence in zip(self.queries, self.influence, strict=True):
            columns[f"influence on {query}"] = influence
        return columns


def require_suffix(path: Path) -> None:
    """Raises UsageError unless the name of the file says a format that `write` knows."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"the file must end in {', '.join(SUFFIXES)}, got {path.name}")
