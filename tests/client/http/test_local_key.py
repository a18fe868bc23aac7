from __future__ import annotations

from pathlib import Path

import pytest

from drmad_client.http.client import Client
from tests.client.http.fake_service import Answer, FakeService


def test_the_key_of_this_machines_service_is_found_and_sent_to_no_other(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRMAD_HOME", str(tmp_path))
    (tmp_path / "key").write_text("drmad_local\n")
    service.on("GET", "/v1/catalog", Answer(200, b"{}"))
    with Client(service.url) as client:
        client.catalog()
    monkeypatch.setenv("DRMAD_API_KEY", "from-environment")
    with Client(service.url) as client:
        client.catalog()
    sent = [request.headers["authorization"] for request in service.requests]
    assert sent == ["Bearer drmad_local", "Bearer from-environment"]
    monkeypatch.delenv("DRMAD_API_KEY")
    with Client("https://drmad.example") as elsewhere:
        assert "authorization" not in elsewhere._http.headers
