"""Packages that a job brings, installed for it alone, where the operator allows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drmad_client.errors import JobFailed, UnprocessableEntity
from drmad_client.http.client import Client
from tests.end_to_end.running import Service

JOB: dict[str, Any] = {
    "hyperparameters": [{"kind": "l2", "per": "layer"}],
    "training": {"steps": 5, "batch_size": 10},
    "hypergradient": {"method": "replay"},
    "meta": {"iterations": 1},
}
BUILD = """
import torch
import {package}
from drmad_workers import Problem

def build():
    print("version", getattr({package}, "__version__", "?"), {package}.__file__)
    data = torch.randn(40, 3), torch.arange(40) % 2
    return Problem(model=torch.nn.Linear(3, 2), train=data, valid=data)
"""


def job(client: Client, folder: Path, package: str, requirements: list[str]) -> dict[str, Any]:
    folder.mkdir()
    (folder / "mine.py").write_text(BUILD.format(package=package))
    code = client.code.upload(folder)
    problem = {"entrypoint": "mine:build", "code": code, "requirements": requirements}
    return JOB | {"problem": problem}


def test_requirements_are_refused_unless_the_operator_allows_them(
    client: Client, tmp_path: Path
) -> None:
    with pytest.raises(UnprocessableEntity) as caught:
        client.jobs.create(job(client, tmp_path / "code", "sixpack", ["six==1.16.0"]))
    assert caught.value.errors[0].path == "problem.requirements"
    assert "--allow-requirements" in caught.value.errors[0].message


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("home"), "--allow-requirements")
    running.start()
    yield running
    running.interrupt()


@pytest.mark.full
def test_a_package_of_pypi_is_there_for_the_job_that_asks_and_for_no_other(
    open_service: Service, tmp_path: Path
) -> None:
    """Needs PyPI within reach; `toolz` is no part of what the workers have."""
    with open_service.client() as client:
        with_it = client.jobs.create(job(client, tmp_path / "a", "toolz", ["toolz==1.0.0"]))
        with_it.wait(timeout_s=600)
        assert any("version 1.0.0" in line.text for line in with_it.logs())
        without = client.jobs.create(job(client, tmp_path / "b", "toolz", []))
        with pytest.raises(JobFailed, match="No module named 'toolz'"):
            without.wait(timeout_s=300)


@pytest.mark.full
def test_a_package_that_is_not_there_fails_the_job(open_service: Service, tmp_path: Path) -> None:
    with open_service.client() as client:
        asks = job(client, tmp_path / "code", "toolz", ["toolz==0.0.0.1"])
        with pytest.raises(JobFailed) as caught:
            client.jobs.create(asks).wait(timeout_s=600)
        error = caught.value.job.error
        assert error is not None
        assert error.code == "requirements"
        assert "could not be installed" in error.message
