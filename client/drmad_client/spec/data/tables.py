"""The data set of a table: a CSV or Parquet file, its columns and its split."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from drmad_client.spec.data.data_set import UPLOAD, DataSet
from drmad_client.spec.defaults import TABLE_SPLIT

ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
Columns = Annotated[tuple[ColumnName, ...], Field(max_length=10_000)]
Size = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0.0, lt=1.0)]
"""A number of rows, or a share of all rows."""


class TableData(DataSet):
    """Your own table, a CSV or Parquet file: a column to predict, and columns of inputs."""

    name: Literal["table"] = "table"
    data: str | None = Field(
        default=None,
        pattern=UPLOAD,
        description="Name of the uploaded file, as PUT /v1/data/{sha256} returns it; null reads "
        "`path`.",
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="Path of the file below a data root that the operator allows, relative to "
        "that root; null reads `data`.",
    )
    target: ColumnName | Annotated[list[ColumnName], Field(min_length=1, max_length=1000)] = Field(
        description="Column to predict, or several columns: labels of 0 and 1, or numbers."
    )
    task: Literal["classification", "binary", "multilabel", "regression"] | None = Field(
        default=None,
        description="What is predicted: a class, one of two classes, several labels of 0 and 1, or "
        "numbers; null infers it from the target, and asks for it where integers leave it open.",
    )
    categorical: Columns = Field(
        default=(),
        description="Columns of categories, for which the model `tabular` learns embeddings.",
    )
    numeric: Columns | None = Field(
        default=None,
        description="Columns of numbers; null takes all columns that no other field names.",
    )
    ignore: Columns = Field(default=(), description="Columns that are not read, such as a key.")
    columns: Columns = Field(
        default=(),
        description="Columns that a sample_weight forms its groups by, such as a source; the model "
        "sees them only if they are listed in `categorical` or `numeric` too.",
    )
    split: ColumnName | None = Field(
        default=None,
        description="Column that says train, valid or test for every row; null draws the parts.",
    )
    train: Size = Field(
        default=TABLE_SPLIT["train"],
        description="Training examples: a number of rows, or a share of all rows below 1.",
    )
    valid: Size = Field(
        default=TABLE_SPLIT["valid"], description="Validation examples, in the same form."
    )
    test: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=TABLE_SPLIT["test"],
        description="Test examples, in the same form; 0 leaves them out.",
    )
    standardize: bool = Field(
        default=True,
        description="Whether every numeric column is shifted and scaled to mean 0 and standard "
        "deviation 1 over the training examples.",
    )
    missing: Literal["refuse", "mean"] = Field(
        default="refuse",
        description="What happens to missing numbers: the job is refused with their columns and "
        "counts, or they become the mean of the training examples beside an indicator column of 0 "
        "and 1. A missing category is the category of unknown values.",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of the drawn split.")

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    @property
    def parts(self) -> tuple[int, int, int] | None:
        sizes = [size for size in (self.train, self.valid, self.test) if isinstance(size, int)]
        return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None

    @property
    def has_categories(self) -> bool:
        return bool(self.categorical)

    def has_column(self, name: str) -> bool:
        return name in self.columns

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if message := self._misfit():
            raise PydanticCustomError("unfit_table", "{message}", {"message": message})
        return self

    def _misfit(self) -> str | None:
        if (self.data is None) == (self.path is None):
            return "a table needs the field data (an upload) or path (a file on the workers): one"
        split = () if self.split is None else (self.split,)
        used = [*self.targets, *self.categorical, *(self.numeric or ()), *self.ignore, *split]
        twice = [name for name, count in Counter(used).items() if count > 1]
        if twice:
            return (
                "each column must be named once among target, categorical, numeric, ignore and "
                f"split, got {', '.join(twice)} twice"
            )
        sizes = {"train": self.train, "valid": self.valid, "test": self.test}
        if self.split is not None and sizes != TABLE_SPLIT:
            return (
                f"the column {self.split} splits the rows: leave train, valid and test out, or "
                "split"
            )
        shares = sum(size for size in sizes.values() if isinstance(size, float))
        if shares > 1.0 + 1e-9:
            return f"the shares of train, valid and test must be at most 1 together, got {shares:g}"
        if self.task in ("classification", "binary") and len(self.targets) > 1:
            return f"{self.task} has one target, got {len(self.targets)}: name one"
        return None
