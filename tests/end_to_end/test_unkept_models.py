"""A model that the service does not keep is said at once; of a frozen base the adapter is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.running import WAIT_S, Service

SPEC: dict[str, Any] = {
    "problem": {"data": {"name": "digits"}, "model": {"name": "mlp", "hidden": [1000]}},
    "hyperparameters": [{"kind": "l2"}],
    "training": {"steps": 5, "batch_size": 20},
    "hypergradient": {"method": "shortcut"},
    "meta": {"iterations": 1, "confirmation": 0.0},
}
ADAPTED = """
import torch
from drmad_workers import Problem

class Adapted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.base = torch.nn.Linear(500, 2000)
        self.head = torch.nn.Linear(2000, 2)
        self.requires_grad_(False)
        self.down = torch.nn.Linear(500, 4, bias=False)
        self.up = torch.nn.Linear(4, 2000, bias=False)

    def forward(self, inputs):
        return self.head(torch.tanh(self.base(inputs) + self.up(self.down(inputs))))

def build():
    torch.manual_seed(0)
    data = torch.randn(40, 500), torch.arange(40) % 2
    return Problem(Adapted(), data, data)
"""
ADAPTER_BYTES = 4 * (500 * 4 + 4 * 2000)
MOST_BYTES = 100_000


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("DRMAD_MAX_MODEL_BYTES", str(MOST_BYTES))
    running = Service(tmp_path / "home")
    running.start()
    yield running
    running.interrupt()


@pytest.mark.filterwarnings("ignore::drmad_client.errors.JobWarning")
def test_a_model_that_is_not_kept_is_said_in_preflight_show_and_fetch(
    service: Service, tmp_path: Path
) -> None:
    size = 4 * (64 * 1000 + 1000 + 1000 * 10 + 10)
    said = f"at most 100,000 bytes (max_model_bytes of the service), got {size:,}"
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(SPEC))
    checked = service.run("submit", str(file), "--check")
    assert checked.returncode == 0, checked.stderr
    assert said in flowed(checked.stdout)
    assert "no problems found" not in checked.stdout
    with service.client() as client:
        job = client.jobs.create(SPEC).wait(timeout_s=WAIT_S)
        (warning,) = [each for each in job.record.warnings if each.code == "model_not_kept"]
        assert said in warning.message
    assert flowed(service.run("show", job.id).stdout).count(said) == 1
    fetched = service.run("fetch", job.id, "--to", str(tmp_path / "fetched"))
    assert fetched.returncode == 0
    assert f"no model was written: job {job.id} keeps no best model" in flowed(fetched.stderr)
    assert said in flowed(fetched.stderr)
    assert not (tmp_path / "fetched" / "model.safetensors").exists()

    code = tmp_path / "code"
    code.mkdir()
    (code / "my_problem.py").write_text(ADAPTED)
    with service.client() as client:
        problem = {"entrypoint": "my_problem:build", "code": client.code.upload(code)}
        adapted = client.jobs.create(SPEC | {"problem": problem}).wait(timeout_s=WAIT_S)
        assert adapted.model().keys() == {"down.weight", "up.weight"}
        assert adapted.record.warnings == []
        assert adapted.record.preflight is not None
        assert adapted.record.preflight.model_bytes == ADAPTER_BYTES
        file = adapted.download_model(tmp_path / "adapter.safetensors")
    assert ADAPTER_BYTES < file.stat().st_size < ADAPTER_BYTES + 1000
    assert "0.0 MB are kept" in service.run("show", adapted.id).stdout


def flowed(text: str) -> str:
    return " ".join(text.split())
