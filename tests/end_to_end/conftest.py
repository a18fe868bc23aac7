"""One running service for all tests that only submit to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from drmad_client.http.client import Client
from tests.end_to_end.running import Service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("home"), "--cpus", "2")
    running.start()
    yield running
    running.interrupt()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="session")
def data_root() -> Path:
    """A data root that holds MNIST's files."""
    for root in os.environ.get("DRMAD_DATA_ROOTS", "").split(os.pathsep):
        if root and (Path(root) / "mnist").is_dir():
            return Path(root)
    pytest.skip("DRMAD_DATA_ROOTS names no folder with MNIST's files in it")
