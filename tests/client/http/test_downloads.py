"""A model is written to a file as it arrives; what breaks off goes on where it broke."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from drmad_client.errors import ConnectionFailed, NotFound
from drmad_client.http.client import Client
from tests.client import samples
from tests.client.http.fake_service import Answer, FakeService, problem

PATH = f"/v1/jobs/{samples.ID}/model"
OLD, NEW = b"a first model of some bytes", b"another model, which the job has by now"


def described(content: bytes) -> dict[str, str]:
    digest = hashlib.sha256(content)
    stated = base64.b64encode(digest.digest()).decode()
    return {"etag": f'"{digest.hexdigest()}"', "repr-digest": f"sha-256=:{stated}:"}


def part(content: bytes, start: int, breaks_off: bool = False) -> Answer:
    headers = {"content-range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
    return Answer(206, content[start:], described(content) | headers, breaks_off)


def downloaded(client: Client, target: Path) -> bytes:
    assert client.jobs.download_model(samples.ID, target) == target
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    return target.read_bytes()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "model.safetensors"


def test_a_broken_download_goes_on_where_it_broke(
    client: Client, service: FakeService, target: Path
) -> None:
    broken = Answer(200, OLD[:10], described(OLD), breaks_off=True)
    also = Answer(206, OLD[10:15], part(OLD, 10).headers, breaks_off=True)
    service.on("GET", PATH, broken, also, part(OLD, 15))
    assert downloaded(client, target) == OLD
    asked = [request.headers.get("range") for request in service.heard("GET", PATH)]
    assert asked == [None, "bytes=10-", "bytes=15-"]
    assert service.heard("GET", PATH)[1].headers["if-match"] == described(OLD)["etag"]
    assert service.heard("GET", PATH)[0].headers["accept-encoding"] == "identity"


def test_a_model_that_was_replaced_meanwhile_begins_anew(
    client: Client, service: FakeService, target: Path
) -> None:
    broken = Answer(200, OLD[:10], described(OLD), breaks_off=True)
    service.on("GET", PATH, broken, problem(412, "changed"), Answer(200, NEW, described(NEW)))
    assert downloaded(client, target) == NEW
    assert "range" not in service.heard("GET", PATH)[2].headers


def test_a_service_without_ranges_sends_the_whole_again(
    client: Client, service: FakeService, target: Path
) -> None:
    broken = Answer(200, OLD[:10], described(OLD), breaks_off=True)
    service.on("GET", PATH, broken, Answer(200, OLD, described(OLD)))
    assert downloaded(client, target) == OLD


def test_a_damaged_or_a_missing_model_leaves_no_file(
    client: Client, service: FakeService, target: Path
) -> None:
    service.on("GET", PATH, Answer(200, NEW, described(OLD)))
    with pytest.raises(ConnectionFailed, match="damaged on its way: its SHA-256 must be"):
        downloaded(client, target)
    service.on("GET", PATH, problem(404, "it keeps no best model"))
    with pytest.raises(NotFound, match="keeps no best model"):
        downloaded(client, target)
    service.on("GET", PATH, Answer(200, OLD[:10], described(OLD), breaks_off=True))
    with pytest.raises(ConnectionFailed):
        downloaded(client, target)
    assert [*target.parent.iterdir()] == []
