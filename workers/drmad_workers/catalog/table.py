"""The data set `table`: a CSV or Parquet file, split and encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drmad_workers.catalog.places import Places
from drmad_workers.catalog.split import Split
from drmad_workers.catalog.table_columns import (
    CategoricalColumn,
    Encoder,
    NumericColumn,
    numbers_of,
    texts_of,
)
from drmad_workers.catalog.table_files import TableFile
from drmad_workers.catalog.table_targets import Targets, encoded_targets
from drmad_workers.errors import ProblemError

if TYPE_CHECKING:
    import pandas as pd

Rows = NDArray[np.int64]
PARTS = ("train", "valid", "test")


def load_table(options: Mapping[str, Any], places: Places) -> Split:
    """The table with its split; see drmad_client.spec.data.tables for the options.

    Raises:
        ProblemError: the file is missing or damaged, or columns or rows do not fit.
    """
    file, field = opened(options, places)
    targets = [options["target"]] if isinstance(options["target"], str) else options["target"]
    categorical, columns, split = options["categorical"], options["columns"], options["split"]
    beside = {*targets, *categorical, *options["ignore"], *columns, *([split] if split else [])}
    numeric = options["numeric"]
    if numeric is None:
        numeric = [name for name in file.names if name not in beside]
    wanted = list(dict.fromkeys([*numeric, *categorical, *targets, *columns]))
    wanted += [split] if split and split not in wanted else []
    require_columns(wanted, file.names)
    if not numeric and not categorical:
        raise ProblemError(
            "a table needs a column of inputs, got none beside the target: list one in numeric or "
            "categorical",
            "problem.data.numeric",
        )
    frame = file.read(wanted)
    if frame.empty:
        raise ProblemError("the table must have rows below its header, got none", field)
    rows = split_rows(options, frame)
    train = frame.iloc[rows["train"]]
    encoder = Encoder(
        [
            NumericColumn.fitted(
                name,
                numbers_of(frame[name], name, "problem.data.numeric")[rows["train"]],
                options["standardize"],
                options["missing"],
            )
            for name in numeric
        ],
        [CategoricalColumn.fitted(name, texts_of(train[name])) for name in categorical],
    )
    found = encoded_targets(frame, targets, options["task"], rows["train"])
    return assembled(frame, encoder, found, rows, columns)


def assembled(
    frame: pd.DataFrame,
    encoder: Encoder,
    found: Targets,
    rows: Mapping[str, Rows],
    columns: Sequence[str],
) -> Split:
    """The parts of the table as tensors."""
    inputs = torch.from_numpy(encoder.encode(frame))

    def part(name: str) -> tuple[Tensor, Tensor]:
        index = torch.from_numpy(rows[name])
        return inputs[index], found.values[index]

    return Split(
        train=part("train"),
        valid=part("valid"),
        test=part("test") if len(rows["test"]) else None,
        task=found.task,
        input_shape=tuple(inputs.shape[1:]),
        categories=encoder.categories,
        columns={name: column_of(frame, name, rows["train"]) for name in columns},
        encoder=encoder,
        targets=found,
    )


def opened(options: Mapping[str, Any], places: Places) -> tuple[TableFile, str]:
    """The file that the options name, and the field that names it."""
    if not (find_spec("pandas") and find_spec("pyarrow")):
        raise ProblemError(
            "the data set table requires pandas and pyarrow on the workers, got none: pip install "
            "pandas pyarrow",
            "problem.data.name",
        )
    if options["data"] is not None:
        field = "problem.data.data"
        return TableFile(places.upload(options["data"], field), field), field
    field = "problem.data.path"
    if options["path"] is None:
        raise ProblemError("a table needs the field data or path, got neither", field)
    path = places.below(options["path"], "path", field)
    if not path.is_file():
        raise ProblemError(
            f"path must be a CSV or Parquet file, got {path}, which is not a file", field
        )
    return TableFile(path, field), field


def require_columns(wanted: Sequence[str], names: Sequence[str]) -> None:
    if absent := [name for name in wanted if name not in names]:
        raise ProblemError(
            f"the table must have the columns that the job names, got none called "
            f"{', '.join(map(repr, absent[:10]))}; it has {', '.join(names[:50])}",
            "problem.data",
        )


def split_rows(options: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, Rows]:
    """The rows of each part: those that the column `split` names, or drawn ones."""
    if options["split"] is not None:
        return stated_rows(texts_of(frame[options["split"]]), options["split"])
    total, seed = len(frame), int(options["seed"])
    sizes = {part: size_of(options[part], total, part) for part in PARTS}
    wanted = sum(sizes.values())
    if wanted > total:
        raise ProblemError(
            f"train + valid + test must be at most {total}, the rows of the table, got {wanted}",
            "problem.data.train",
        )
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(total)
    ends = np.cumsum([sizes[part] for part in PARTS])
    return dict(zip(PARTS, np.split(order[: ends[-1]], ends[:-1]), strict=True))


def size_of(stated: float, total: int, part: str) -> int:
    """A number of rows from a number, or from a share below 1."""
    size = stated if isinstance(stated, int) else int(stated * total + 1e-9)
    if size < (0 if part == "test" else 1):
        raise ProblemError(
            f"{part} must be at least one of the {total} rows, got {stated}", f"problem.data.{part}"
        )
    return size


def stated_rows(values: NDArray[np.object_], column: str) -> dict[str, Rows]:
    wrong = [row for row, value in enumerate(values) if value not in PARTS]
    if wrong:
        raise ProblemError(
            f"column {column!r} must say train, valid or test in every row, got "
            f"{values[wrong[0]]!r} in row {wrong[0] + 1} ({len(wrong)} such rows)",
            "problem.data.split",
        )
    rows = {part: np.flatnonzero(values == part) for part in PARTS}
    for part in ("train", "valid"):
        if not len(rows[part]):
            raise ProblemError(
                f"column {column!r} must name rows of {part}, got none", "problem.data.split"
            )
    return rows


def column_of(frame: pd.DataFrame, name: str, rows: Rows) -> list[str]:
    """The values of a column in the training rows, for hyperparameters per group."""
    values = texts_of(frame[name])[rows]
    missing = [row for row, value in zip(rows, values, strict=True) if value is None]
    if missing:
        raise ProblemError(
            f"column {name!r} must have a value in every training row, got none in row "
            f"{int(missing[0]) + 1} ({len(missing)} such rows)",
            "problem.data.columns",
        )
    return list(values)
