"""Files of an attribution: what is written is read again, with rows and groups by name."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from drmad_client.errors import DrmadError
from drmad_client.files.array_file import DataError
from drmad_client.files.influence_scores import InfluenceScores

SCORES = InfluenceScores(
    ["valid", "row 3"],
    np.array([[0.5, -0.25, 0.125, -0.25], [1.0, 2.0, -3.0, 0.0]], np.float32),
    np.array([0.7, 1.5]),
    {"class": np.array([0, 1, 0, -1]), "source": np.array([1, 1, 0, 0])},
    {"class": ["0", "1"], "source": ["crowd", "expert"]},
)


def test_scores_are_read_as_they_were_packed() -> None:
    found = InfluenceScores.unpack(SCORES.pack())
    assert found.queries == SCORES.queries
    np.testing.assert_array_equal(found.influence, SCORES.influence)
    np.testing.assert_array_equal(found.values, SCORES.values)
    assert found.labels == SCORES.labels
    for name, numbers in SCORES.groups.items():
        np.testing.assert_array_equal(found.groups[name], numbers)


def test_other_bytes_are_no_scores() -> None:
    for content in (b"", b"\x08\0\0\0\0\0\0\0{}      ", SCORES.pack()[:-8]):
        with pytest.raises(DataError, match="expected the scores of an attribution"):
            InfluenceScores.unpack(content)


def test_rows_are_ordered_from_the_most_harmful_and_queries_are_named() -> None:
    assert SCORES.order().tolist() == [1, 3, 2, 0]
    assert SCORES.order("row 3").tolist() == [2, 3, 0, 1]
    with pytest.raises(DrmadError, match="query must be one of valid, row 3, got 'row 4'"):
        SCORES.order("row 4")


def test_sums_of_a_group_leave_out_rows_without_one() -> None:
    np.testing.assert_allclose(SCORES.sums("class"), [[0.625, -0.25], [-2.0, 2.0]])
    np.testing.assert_allclose(SCORES.sums("source"), [[-0.125, 0.25], [-3.0, 3.0]])
    assert SCORES.label_of("source", 0) == "expert"
    assert SCORES.label_of("class", 3) is None


def test_every_format_names_the_row_and_its_groups(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".csv", ".parquet"):
        SCORES.write(tmp_path / f"scores{suffix}")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "row": "1", "class": "1", "source": "expert",
        "influence on valid": "-0.25", "influence on row 3": "2.0",
    }  # fmt: skip
    assert rows[3]["class"] == ""
    import pandas

    frame = pandas.read_parquet(tmp_path / "scores.parquet")
    pandas.testing.assert_frame_equal(frame, SCORES.to_pandas(), check_dtype=False)
    with safe_open(tmp_path / "scores.safetensors", framework="numpy") as opened:
        assert opened.get_tensor("row").tolist() == [0, 1, 2, 3]
    with pytest.raises(DrmadError, match="must end in"):
        SCORES.write(tmp_path / "scores.npz")
