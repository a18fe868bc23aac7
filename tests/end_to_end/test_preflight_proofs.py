"""A failed proof, from a worker to the user: it prevents the job, or every record warns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drmad_client.errors import JobFailed, JobWarning
from drmad_client.http.client import Client
from drmad_client.records.status import JobStatus
from tests.end_to_end.running import WAIT_S, Service

WRONG = """
import torch
from drmad_workers import Problem

class Counting(torch.nn.Module):
    # Its list makes every tenth call another function, which no derivative sees.
    def forward(self, x):
        self.calls = [*getattr(self, "calls", []), 1]
        return x * (2.0 if len(self.calls) % 10 == 0 else 1.0)

def build():
    torch.manual_seed(0)
    data = torch.randn(40, 3), torch.arange(40) % 2
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), Counting(), torch.nn.Linear(4, 2))
    return Problem(model=model, train=data, valid=data, initialize="reset")
"""
SPEC: dict[str, Any] = {
    "problem": {"entrypoint": "my_problem:build"},
    "hyperparameters": [{"kind": "l2", "per": "layer"}],
    "training": {"steps": 10, "batch_size": 10},
    "hypergradient": {"method": "replay"},
    "meta": {"iterations": 2},
}


def test_a_failed_proof_prevents_the_job_unless_it_is_overridden(
    client: Client, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "my_problem.py").write_text(WRONG)
    report = client.jobs.check(SPEC, code=tmp_path)
    failed = [proof.name for proof in report.failed]
    assert "repeatable" in failed
    job = client.jobs.create(SPEC, code=tmp_path)
    with pytest.raises(JobFailed):
        job.wait(timeout_s=WAIT_S)
    record = job.record
    assert record.error is not None
    assert record.error.code == "preflight_failed"
    assert "repeatable" in record.error.message
    assert record.preflight is not None
    assert [proof.name for proof in record.preflight.failed] == failed
    assert service.run("show", job.id).stdout.count("failed") > 2
    job = client.jobs.create(SPEC | {"preflight": {"override": failed}}, code=tmp_path)
    with pytest.warns(JobWarning, match="repeatable failed and was overridden"):
        ended = job.wait(timeout_s=WAIT_S)
    assert ended.status is JobStatus.SUCCEEDED
    warnings = [record.warnings for record in job.history()]
    assert len(warnings) == 2
    assert all(len(sentences) == len(failed) for sentences in warnings)
