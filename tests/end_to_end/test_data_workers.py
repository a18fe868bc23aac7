"""Jobs whose training data are read by other processes, on Ray."""

from __future__ import annotations

import os
import select
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drmad_client.errors import JobFailed
from drmad_client.http.client import Client
from tests.end_to_end.running import WAIT_S

CODE = """
import os
from multiprocessing import parent_process
from pathlib import Path
import torch
from drmad_workers import Problem

class Drawn:
    def __init__(self, folder, broken):
        self.folder, self.broken = folder, broken

    def __len__(self):
        return 40

    def __getitem__(self, row):
        if parent_process() is not None:
            (Path(self.folder) / str(os.getpid())).touch()
        if row == self.broken and os.listdir(self.folder):  # another process reads
            raise OSError("no such image")
        return torch.randn(3), row % 2

def build(folder, broken=-1):
    valid = torch.randn(20, 3), torch.arange(20) % 2
    return Problem(torch.nn.Linear(3, 2), Drawn(folder, broken), valid)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where user code may write: beside the service's home it may not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as path:
        yield Path(path)


def submitted(
    client: Client, folder: Path, workers: int, iterations: int, **options: Any
) -> tuple[Any, Path]:
    """A job, and the folder with a file for every process that read for it."""
    code, seen = folder / "code", folder / f"seen-{workers}"
    seen.mkdir()
    if not code.exists():
        code.mkdir()
        (code / "my_problem.py").write_text(CODE)
    job = client.jobs.create(
        {
            "problem": {
                "entrypoint": "my_problem:build",
                "code": client.code.upload(code),
                "options": {"folder": str(seen), **options},
            },
            "hyperparameters": [{"kind": "l2", "per": "model"}],
            "training": {"steps": 12, "batch_size": 4, "data_workers": workers},
            "hypergradient": {"method": "replay"},
            "meta": {"iterations": iterations, "rollback_tolerance": None},
        }
    )
    return job, seen


def require_ended(seen: Path) -> None:
    """Waits for the end of the processes that read."""
    for name in os.listdir(seen):
        try:
            process = os.pidfd_open(int(name))
        except ProcessLookupError:
            continue
        ended, _, _ = select.select([process], [], [], 20)
        os.close(process)
        assert ended, f"process {name} lives on"


def test_a_job_has_the_same_result_with_processes_which_end_with_it(
    client: Client, folder: Path
) -> None:
    found = []
    for workers in (0, 2):
        job, seen = submitted(client, folder, workers, 2)
        job.wait(timeout_s=WAIT_S)
        found.append([(each.validation_loss, each.hyperparameters) for each in job.history()])
        assert (len(os.listdir(seen)) >= 2) is (workers == 2)
        require_ended(seen)
    assert len(found[0]) == 2
    assert found[0] == found[1]


def test_error_of_an_item_has_the_users_own_line(client: Client, folder: Path) -> None:
    job, seen = submitted(client, folder, 1, 2, broken=17)
    with pytest.raises(JobFailed) as caught:
        job.wait(timeout_s=WAIT_S)
    error = caught.value.job.error
    assert error is not None
    assert os.listdir(seen)
    assert (error.code, error.message) == ("user_code", "OSError: no such image (my_problem.py:19)")
    require_ended(seen)


def test_processes_of_a_cancelled_job_end(client: Client, folder: Path) -> None:
    job, seen = submitted(client, folder, 2, 100_000)
    for event in client.jobs.events(job.id):
        if event.type == "iteration":
            break
    assert len(os.listdir(seen)) >= 2
    job.cancel()
    with pytest.raises(JobFailed):
        job.wait(timeout_s=WAIT_S)
    require_ended(seen)
