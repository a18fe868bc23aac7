"""Histories as files: mixtures of numbers, missing values and lists have columns, too."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest

from drmad_client.errors import DrmadError
from drmad_client.http.job_view import History
from tests.client import samples


def test_columns_that_some_meta_iterations_lack_are_empty_there(tmp_path: Path) -> None:
    first, second = samples.record(0), samples.record(1)
    second = second.model_copy(update={"metrics": {"test_error": 1, "other": 0.5}})
    third = samples.record(2).model_copy(update={"metrics": {"test_error": float("nan")}})
    history = History([first, second, third])
    table = pyarrow.parquet.read_table(history.write(tmp_path / "h.parquet"))
    assert table.column("metrics.other").to_pylist() == [None, 0.5, None]
    assert table.num_rows == 3
    text = history.write(tmp_path / "h.csv").read_text()
    assert text.splitlines()[0].split(",") == table.column_names


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DrmadError, match=r"must end in \.csv or \.parquet"):
        History([]).write(tmp_path / "h.xlsx")
