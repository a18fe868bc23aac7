"""`drmad check` on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from drmad_client.cli.main import run
from drmad_client.spec.outer.online import checkpoint_refusal
from drmad_workers.preflight import short_run

JOB = {
    "problem": {"data": {"name": "digits", "train": 100, "valid": 50, "test": 0}},
    "hyperparameters": [{"kind": "l2"}],
    "training": {"steps": 20, "batch_size": 10},
    "hypergradient": {"method": "replay"},
}
FAILED = {"name": "training", "result": "failed", "detail": "differs", "seconds": 0.1}


@pytest.mark.parametrize(("override", "code"), [([], 1), (["unchanged"], 1), (["training"], 0)])
def test_a_failed_proof_is_the_exit_code_unless_the_job_overrides_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: list[str],
    code: int,
) -> None:
    measured = short_run.preflight

    def with_a_failure(*arguments: Any) -> dict[str, Any]:
        return measured(*arguments) | {"proofs": [FAILED]}

    monkeypatch.setattr(short_run, "preflight", with_a_failure)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB | {"preflight": {"override": override}}))
    assert run(["check", str(file)]) == code
    printed = capsys.readouterr()
    assert "predicted for the whole job" in printed.out
    assert ("training: differs" in printed.err) == (code == 1)


@pytest.mark.parametrize(("most", "warned"), [(10**6, False), (100, True)])
def test_checkpoints_that_a_service_does_not_keep_are_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    most: int,
    warned: bool,
) -> None:
    monkeypatch.setattr(checkpoint_refusal, "__defaults__", (most,))
    online = {"mode": "online", "window": 5}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB | {"meta": online, "training": {"steps": 20}}))
    assert run(["check", str(file)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert ("checkpoint_too_large" in printed) is warned
    assert ("no problems found" in printed) is not warned
