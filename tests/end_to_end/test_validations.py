"""A validation on the cluster: by the SDK and the command line, through Redis, on Ray's workers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from drmad_client.errors import Conflict, NotFound, ValidationFailed
from drmad_client.http.client import Client
from drmad_client.records.side_runs.validation import ValidationReport
from drmad_client.spec.side_runs.validation import ValidationSpec
from tests.end_to_end.running import WAIT_S, Service

SPEC: dict[str, Any] = {
    "problem": {"data": {"name": "digits", "train": 100, "valid": 50, "test": 0}},
    "hyperparameters": [{"kind": "sample_weight"}],
    "training": {"steps": 20, "batch_size": 20},
    "hypergradient": {"method": "replay"},
    "meta": {"iterations": 2},
}
FEW = ["--changes", "5", "--draws", "2", "--fraction", "0.1"]


def test_the_cluster_finds_what_this_machine_finds_and_keeps_it_with_the_job(
    client: Client, service: Service, tmp_path: Path
) -> None:
    job = client.jobs.create(SPEC).wait(timeout_s=WAIT_S)
    # Meta-iteration 1 trained at the initial hyperparameters, as the job file is validated at.
    shown = service.run("validate", job.id, "--iteration", "1", *FEW, "--output", "json")
    assert shown.returncode == 0, shown.stderr
    report = ValidationReport.model_validate(json.loads(shown.stdout))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(SPEC))
    here = service.run("validate", str(tmp_path / "job.yaml"), *FEW, "--output", "json")
    assert here.returncode == 0, here.stderr
    assert ValidationReport.model_validate(json.loads(here.stdout)) == report

    best = job.validate_hypergradient(
        changes=5, draws=2, fractions=[0.1], timeout_s=WAIT_S, progress=False
    )
    assert best.correlations[0].retrainings == 5
    newest, older = job.validations()
    assert (newest.report, older.report) == (best, report)
    assert (newest.done, newest.total) == (10, 10)
    assert newest.workers >= 1
    with service.http() as http:
        page = http.get(f"/jobs/{job.id}").text
    assert best.verdict.sentence.partition(" (")[0] in page
    assert "Agreement between draws" in page


def test_a_validation_is_cancelled_while_it_runs(client: Client, service: Service) -> None:
    job = client.jobs.create(SPEC).wait(timeout_s=WAIT_S)
    with pytest.raises(NotFound):
        job.validate_hypergradient(7, progress=False)
    asked = ValidationSpec(changes=1000).model_dump()
    with service.http() as http:
        answer = http.post(f"/v1/jobs/{job.id}/validations", json=asked)
        assert answer.status_code == 202
        place = answer.headers["Location"]
        with pytest.raises(Conflict, match="not finished"):
            job.validate_hypergradient(progress=False)
        deadline = time.monotonic() + WAIT_S
        while not http.get(place).json()["done"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert http.post(f"{place}/cancel").json()["status"] == "cancelling"
        while http.get(place).json()["status"] != "cancelled":
            assert time.monotonic() < deadline
            time.sleep(0.1)
    # Its workers are free again.
    found = job.validate_hypergradient(changes=5, draws=2, fractions=[0.1], progress=False)
    assert found.correlations


def test_a_failure_of_the_users_code_is_the_validations(client: Client, tmp_path: Path) -> None:
    fails, dies = tmp_path / "fails", tmp_path / "dies"
    source = f"""
import os
import torch
from drmad_workers import Problem

def build():
    print("reads the data")
    if os.path.exists({str(dies)!r}):
        os.write(2, b"out of luck")
        os.kill(os.getpid(), 9)
    if os.path.exists({str(fails)!r}):
        raise RuntimeError("the data are gone")
    torch.manual_seed(0)
    data = torch.randn(40, 3), torch.arange(40) % 2
    return Problem(torch.nn.Linear(3, 2), data, data, initialize="reset")
"""
    code = tmp_path / "code"
    code.mkdir()
    (code / "my_problem.py").write_text(source)
    spec = SPEC | {"problem": {"entrypoint": "my_problem:build"}}
    job = client.jobs.create(spec, code=code).wait(timeout_s=WAIT_S)
    fails.touch()
    with pytest.raises(ValidationFailed, match="the data are gone") as failed:
        job.validate_hypergradient(changes=5, progress=False)
    error = failed.value.validation.error
    assert error is not None
    assert error.code == "user_code"
    assert error.traceback is not None
    assert "my_problem.py" in error.traceback
    dies.touch()
    with pytest.raises(ValidationFailed, match="killed"):
        job.validate_hypergradient(changes=5, progress=False)
    printed = [line.text for line in job.logs() if line.source.startswith("validation ")]
    assert printed == ["reads the data", "reads the data", "out of luck"]
    assert "out of luck" not in [line.text for line in client.jobs.logs(job.id, replica=0)]
