"""The words for the queries of an attribution."""

from __future__ import annotations

import pytest

from drmad_client.spec.side_runs.queries import parse_query


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("valid", ("valid", None)),
        ("each", ("each", None)),
        ("classes", ("classes", None)),
        ("class:3", ("class", 3)),
        ("rows:0, 5,10-12,11", ("rows", [0, 5, 10, 11, 12])),
        ("measure:margin", ("measure", "margin")),
    ],
)
def test_a_query_is_read(text: str, expected: object) -> None:
    assert parse_query(text) == expected


@pytest.mark.parametrize(
    "text", ["", "test", "class", "class:x", "rows:", "rows:5-2", "rows:1,", "measure:", "valid:1"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|must go upwards"):
        parse_query(text)
