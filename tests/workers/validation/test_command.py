"""`drmad validate job.yaml` on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from drmad_client.cli.main import run
from drmad_client.records.side_runs.validation import ValidationReport

JOB = {
    "problem": {"data": {"name": "digits", "train": 100, "valid": 50, "test": 0}},
    "hyperparameters": [{"kind": "sample_weight"}, {"kind": "l2"}],
    "training": {"steps": 20, "batch_size": 20},
    "hypergradient": {"method": "shortcut"},
}
FEW = ["--changes", "5", "--draws", "2", "--fraction", "0.1", "--radius", "1"]


def test_a_job_file_is_validated_as_a_table_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB))
    assert run(["validate", str(file), *FEW]) == 0
    printed = capsys.readouterr().out
    for words in ("hypergradient predicts", "10 % left out", "direction, 1 outer steps", "ceiling"):
        assert words in printed
    assert run(["validate", str(file), *FEW, "--output", "json"]) == 0
    report = ValidationReport.model_validate(json.loads(capsys.readouterr().out))
    assert {each.size for each in report.correlations} == {0.1, 1.0}
    # Of 12 training runs five leave out examples, five move l2 and four try the outer step.
    assert report.runs == report.cost + 2 * 4.0 + 15
    assert report.verdict.sentence in " ".join(printed.split())


def test_options_and_jobs_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB | {"training": {"steps": 0}}))
    assert run(["validate", str(file), "--changes", "2"]) == 64
    assert "changes" in capsys.readouterr().err
    assert run(["validate", str(file)]) == 64
    assert "training.steps" in capsys.readouterr().err
