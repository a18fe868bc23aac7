from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from drmad_client import retries
from drmad_client.api import AsyncClient, Client
from tests.client.both import Blocking
from tests.client.fake_service import FakeService

MakeClient = Callable[..., Client]


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
    """Client, or AsyncClient with the same face; what it makes is closed at the end."""
    if request.param == "sync":
        with contextlib.ExitStack() as stack:
            yield lambda *args, **options: stack.enter_context(Client(*args, **options))
        return
    with asyncio.Runner() as runner:
        made: list[AsyncClient] = []

        def make(*args: Any, **options: Any) -> Client:
            made.append(AsyncClient(*args, **options))
            return cast(Client, Blocking(made[-1], runner))

        yield make
        for client in made:
            runner.run(client.close())


@pytest.fixture
def client(service: FakeService, make_client: MakeClient) -> Client:
    return make_client(service.url)
