"""`drmad attribute job.yaml` on this machine."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from drmad_client.cli.main import run
from drmad_client.records.side_runs.attribution import AttributionReport
from drmad_client.records.side_runs.retraining import RetrainingReport

JOB = {
    "problem": {"data": {"name": "digits", "train": 100, "valid": 50, "test": 0}},
    "hyperparameters": [{"kind": "l2"}],
    "training": {"steps": 20, "batch_size": 20},
}


def test_a_job_file_is_attributed_as_a_table_as_json_and_as_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, scores = tmp_path / "job.yaml", tmp_path / "scores.csv"
    file.write_text(yaml.safe_dump(JOB))
    asked = ["attribute", str(file), "--queries", "valid", "--queries", "rows:7,9"]
    assert run([*asked, "--top", "3", "--lds-runs", "6", "--out", str(scores)]) == 0
    printed = capsys.readouterr().out
    for words in ("valid: ", "row 7: ", "HELPS", "HARMS", "class 9", "LDS: "):
        assert words in printed
    assert run([*asked, "--draws", "2", "--output", "json"]) == 0
    report = AttributionReport.model_validate(json.loads(capsys.readouterr().out))
    assert [query.name for query in report.queries] == ["valid", "row 7", "row 9"]
    assert (report.rows, report.draws, report.lds) == (100, 2, None)
    # Replay takes four plain runs for one query, and two for each further one; both twice.
    assert report.cost == 2 * (4.0 + 2 * 2.0)
    with scores.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 100
    largest = max(rows, key=lambda row: float(row["influence on valid"]))
    assert f"row {largest['row']}" in printed


def test_options_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB))
    for words, options in (
        ("must be valid, each", ["--queries", "all"]),
        ("left_out", ["--left-out", "1.5"]),
        ("draws must be at least 1", ["--draws", "0"]),
        ("must end in .safetensors", ["--out", "scores.txt"]),
        ("rows must lie below 50", ["--queries", "rows:50"]),
    ):
        assert run(["attribute", str(file), *options]) == 64
        assert words in capsys.readouterr().err


def test_a_job_is_retrained_without_the_rows_of_lowest_influence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, scores = tmp_path / "job.yaml", tmp_path / "scores.safetensors"
    file.write_text(yaml.safe_dump(JOB))
    assert run(["attribute", str(file), "--queries", "rows:1,2", "--out", str(scores)]) == 0
    asked = ["retrain", str(file), "--scores", str(scores), "--seeds", "2", "--query", "row 2"]
    capsys.readouterr()
    assert run([*asked, "--drop-lowest", "12.5%"]) == 0
    printed = capsys.readouterr().out
    assert "2 seeds, 20 steps on the training rows, 12 of 100 rows left out" in printed
    assert "validation_error" in printed
    assert run([*asked, "--drop-lowest", "7", "--output", "json"]) == 0
    report = RetrainingReport.model_validate(json.loads(capsys.readouterr().out))
    loss = report.figures["validation_loss"]
    assert loss.tuned is not None
    assert loss.untuned is not None
    assert loss.difference is not None
    assert (report.dropped, loss.difference.count) == (7, 2)
    assert loss.tuned.mean - loss.untuned.mean == pytest.approx(loss.difference.mean)
    for words, options in (
        ("drop_lowest: must be a share", ["--drop-lowest", "ten"]),
        ("drop_lowest: must be a share", ["--drop-lowest", "100%"]),
        ("one minibatch, must be left, got 15 of 100", ["--drop-lowest", "85"]),
        ("query must be one of row 1, row 2", ["--drop-lowest", "1", "--query", "valid"]),
    ):
        assert run([*asked, *options]) == 64
        assert words in capsys.readouterr().err
    assert run(["retrain", str(file), "--drop-lowest", "5%"]) == 64
    assert "add --scores FILE" in capsys.readouterr().err
