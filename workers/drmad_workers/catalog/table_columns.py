"""The columns of a table as numbers: fitted on the training rows, applied to all.

Rows are counted from 1, below the header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from drmad_workers.errors import ProblemError

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Texts = NDArray[np.object_]

MAX_CATEGORIES = 1_000_000
"""Bounds the categories of a column; float32 holds their numbers exactly up to 2^24."""


@dataclass(frozen=True)
class NumericColumn:
    """(x - mean) / scale, and with `filled` an indicator of missing values, which become 0.

    Attributes:
        name: the column.
        mean, scale: of the training rows; 0 and 1 without standardisation. A constant column has a
            scale of 1.
        fill: the number that takes the place of a missing one; None where none may be missing.
    """

    name: str
    mean: float
    scale: float
    fill: float | None

    @classmethod
    def fitted(
        cls, name: str, values: Floats, standardize: bool, missing: Literal["refuse", "mean"]
    ) -> NumericColumn:
        """Fits the values of the training rows, shape (rows,), nan where one is missing."""
        known = values[~np.isnan(values)]
        if not len(known):
            raise ProblemError(
                f"column {name!r} must have a number in a training row, got none: list it in "
                "ignore",
                "problem.data.numeric",
            )
        mean, deviation = float(known.mean()), float(known.std())
        # A constant such as 0.1 has a deviation of a few roundings.
        varies = deviation > 1e-12 * max(1e-300, float(np.abs(known).max()))
        fill = mean if missing == "mean" else None
        if not standardize:
            return cls(name, 0.0, 1.0, fill)
        return cls(name, mean, deviation if varies else 1.0, fill)

    def encode(self, frame: pd.DataFrame) -> list[Floats]:
        """The numbers of all rows, and their indicator if they may be missing."""
        values = numbers_of(frame[self.name], self.name, "problem.data.numeric")
        missing = np.isnan(values)
        if self.fill is None:
            return [(values - self.mean) / self.scale]
        filled = np.where(missing, self.fill, values)
        return [(filled - self.mean) / self.scale, missing.astype(np.float64)]


@dataclass(frozen=True)
class CategoricalColumn:
    """The number of a category: 1, 2, .. in sorted order, and 0 for what training has not seen.

    Attributes:
        name: the column.
        categories: the sorted categories of the training rows, as text.
    """

    name: str
    categories: tuple[str, ...]

    @classmethod
    def fitted(cls, name: str, values: Texts) -> CategoricalColumn:
        """Fits the values of the training rows, shape (rows,), None where one is missing."""
        known = sorted({value for value in values if value is not None})
        if len(known) > MAX_CATEGORIES:
            raise ProblemError(
                f"column {name!r} must have at most {MAX_CATEGORIES} categories, got {len(known)}: "
                "list it in ignore",
                "problem.data.categorical",
            )
        return cls(name, tuple(known))

    def encode(self, frame: pd.DataFrame) -> Floats:
        number = {category: i for i, category in enumerate(self.categories, start=1)}
        values = texts_of(frame[self.name])
        return np.array([number.get(value, 0) for value in values], dtype=np.float64)


@dataclass(frozen=True)
class Encoder:
    """The inputs of a table: the numbers with their indicators, then the category numbers.

    Attributes:
        numeric, categorical: the columns in their order.
    """

    numeric: Sequence[NumericColumn]
    categorical: Sequence[CategoricalColumn]

    @property
    def categories(self) -> tuple[int, ...]:
        """The categories of each categorical column, the unknown one included."""
        return tuple(len(column.categories) + 1 for column in self.categorical)

    def encode(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """The inputs of the rows of a frame that has the columns, shape (rows, inputs).

        Raises:
            ProblemError: a number is missing where none may be, or is none.
        """
        if refused := [column.name for column in self.numeric if column.fill is None]:
            require_complete(frame, refused)
        parts = [part for column in self.numeric for part in column.encode(frame)]
        parts += [column.encode(frame) for column in self.categorical]
        return np.stack(parts, axis=1).astype(np.float32)


def numbers_of(column: pd.Series[Any], name: str, field: str) -> Floats:
    """The values as numbers, nan where one is missing.

    Raises:
        ProblemError: a value is no number, or infinite.
    """
    import pandas as pd

    kind = column.dtype
    if pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
        raise ProblemError(
            f"column {name!r} must hold numbers, got {kind}: list it in categorical or ignore",
            field,
        )
    numbers = pd.to_numeric(column, errors="coerce")
    values: Floats = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = (np.isnan(values) & column.notna().to_numpy(dtype=bool)) | np.isinf(values)
    if wrong.any():
        row = int(wrong.argmax())
        raise ProblemError(
            f"column {name!r} must hold finite numbers, got {column.iloc[row]!r} in row {row + 1} "
            f"({int(wrong.sum())} such rows): list it in categorical or ignore, or correct the "
            "file",
            field,
        )
    return values


def texts_of(column: pd.Series[Any]) -> Texts:
    """The values as text, None where one is missing; a whole number has no decimal point."""
    values = column.astype(object).where(column.notna(), None).to_numpy()
    return np.array([None if value is None else as_text(value) for value in values], dtype=object)


def as_text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def require_complete(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Raises ProblemError for the columns with missing numbers, with their counts."""
    missing: Mapping[str, NDArray[np.bool_]] = {
        name: frame[name].isna().to_numpy(dtype=bool) for name in names
    }
    found = {name: rows for name, rows in missing.items() if rows.any()}
    if found:
        listed = ", ".join(
            f"{name!r} ({int(rows.sum())} rows, the first is {int(rows.argmax()) + 1})"
            for name, rows in list(found.items())[:10]
        )
        raise ProblemError(
            f"numeric columns must have no missing values, got some in {listed}: set missing: "
            "mean, list them in ignore, or correct the file",
            "problem.data.missing",
        )
