"""The user's own data, uploaded, under a model of the catalog and under their own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from drmad_client.errors import JobFailed
from drmad_client.http.client import Client
from tests.end_to_end.running import WAIT_S, Service

CODE = """
import torch
from drmad_workers import Problem

def build(data, width):
    inputs, targets = data["mine/inputs"].float(), data["mine/targets"]
    assert width == 5
    model = torch.nn.Sequential(torch.nn.Linear(inputs.shape[1], width), torch.nn.Tanh(),
                                torch.nn.Linear(width, 3))
    return Problem(model=model, train=(inputs[:80], targets[:80]),
                   valid=(inputs[80:], targets[80:]), initialize="reset")
"""
JOB: dict[str, Any] = {
    "hyperparameters": [{"kind": "l2", "per": "layer", "init": -4.0}],
    "training": {"steps": 20, "batch_size": 20},
    "hypergradient": {"method": "replay"},
    "meta": {"iterations": 1},
}


def arrays() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 3, 120)
    return draw.normal(size=(120, 6)) + targets[:, None], targets


def test_uploaded_data_are_tuned_by_a_model_of_the_catalog(
    client: Client, service: Service, tmp_path: Path
) -> None:
    inputs, targets = arrays()
    np.savez(tmp_path / "mine.npz", inputs=inputs, targets=targets)
    uploaded = service.run("data", "upload", str(tmp_path / "mine.npz"))
    assert uploaded.returncode == 0, uploaded.stderr
    name = uploaded.stdout.strip()
    data = {"name": "upload", "data": name, "train": 70, "valid": 50, "standardize": True}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB | {"problem": {"data": data}}))
    submitted = service.run("submit", str(tmp_path / "job.yaml"))
    job = client.jobs.wait(submitted.stdout.strip(), timeout_s=WAIT_S)
    assert client.jobs.model(job.id)["0.weight"].shape == (50, 6)
    assert (service.home / "data" / name.removeprefix("sha256:")).is_file()


def test_uploaded_data_are_handed_to_the_users_own_code(client: Client, tmp_path: Path) -> None:
    inputs, targets = arrays()
    (tmp_path / "mine.py").write_text(CODE)
    problem = {
        "entrypoint": "mine:build",
        "options": {"width": 5},
        "code": client.code.upload(tmp_path),
        "data": client.data.upload({"mine/inputs": inputs, "mine/targets": targets}),
    }
    job = client.jobs.create(JOB | {"problem": problem})
    assert client.jobs.wait(job.id, timeout_s=WAIT_S).best is not None


def test_a_file_outside_the_data_roots_fails_the_job_and_is_not_read(
    client: Client, tmp_path: Path
) -> None:
    inputs, targets = arrays()
    np.savez(tmp_path / "mine.npz", inputs=inputs, targets=targets)
    data = {"name": "file", "path": str(tmp_path / "mine.npz"), "train": 70, "valid": 50}
    job = client.jobs.create(JOB | {"problem": {"data": data}})
    with pytest.raises(JobFailed) as caught:
        client.jobs.wait(job.id, timeout_s=WAIT_S)
    error = caught.value.job.error
    assert error is not None
    assert error.code == "problem_invalid"
    assert "must lie below a data root" in error.message


@pytest.mark.full
def test_a_job_goes_on_from_the_uploaded_model_of_another(client: Client) -> None:
    inputs, targets = arrays()
    data = client.data.upload({"inputs": inputs, "targets": targets})
    problem: dict[str, Any] = {"data": {"name": "upload", "data": data, "train": 70, "valid": 50}}
    first = client.jobs.create(JOB | {"problem": problem})
    found = client.jobs.wait(first.id, timeout_s=WAIT_S).best
    assert found is not None
    weights = client.data.upload(client.jobs.model(first.id))
    still = JOB["training"] | {"learning_rate": 1e-9}
    again = client.jobs.create(JOB | {"problem": problem | {"weights": weights}, "training": still})
    started = client.jobs.wait(again.id, timeout_s=WAIT_S)
    assert started.best is not None
    assert started.best.validation_loss == pytest.approx(found.validation_loss, rel=1e-4)
    report = started.record.preflight
    assert report is not None
    assert report.weights == f"those of {weights}"
