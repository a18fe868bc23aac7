from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drmad_client.http.client import Client
from drmad_client.http.protocol import retries
from tests.client.http.both import MakeClient, clients
from tests.client.http.fake_service import FakeService


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(retries, "_LONGEST_PAUSE_S", 0.02)
    monkeypatch.delenv("DRMAD_URL", raising=False)
    monkeypatch.delenv("DRMAD_API_KEY", raising=False)
    monkeypatch.setenv("DRMAD_HOME", str(tmp_path / "home"))  # not the developer's own key


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as service:
        yield service


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    with clients(request.param) as make:
        yield make


@pytest.fixture
def client(service: FakeService, make_client: MakeClient) -> Client:
    return make_client(service.url)
