"""An attacker with a `submit` key runs code on the workers, and finds no secret of the service."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drmad_client.errors import JobFailed
from drmad_client.http.client import Client
from tests.end_to_end.running import WAIT_S, Service

INTRUDER = Path(__file__).parent / "attacks" / "intruder.py"
SECRET = "the-password-of-something-else-entirely"


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the attackers may write: its folder is there before the service starts."""
    return tmp_path_factory.mktemp("marks") / "unpickled"


@pytest.fixture(scope="module")
def attacked(marker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that was started with a secret of the operator's in its environment."""
    service = Service(tmp_path_factory.mktemp("home"), "--cpus", "1")
    service.environment |= {"AWS_SECRET_ACCESS_KEY": SECRET}
    service.start()
    yield service
    service.interrupt()


def intrude(service: Service, folder: Path, **options: Any) -> list[str]:
    """What the intruder's code finds, uploaded and run with a key that may only submit."""
    shutil.copy(INTRUDER, folder / "intruder.py")
    made = service.run("keys", "create", "--tenant", "mallory")
    key = next(word for word in made.stdout.split() if word.startswith("drmad_"))
    with Client(service.url, key) as client:
        job = client.jobs.create(
            {
                "problem": {
                    "entrypoint": "intruder:build",
                    "code": client.code.upload(folder),
                    "options": options,
                },
                "hyperparameters": [{"kind": "l2"}],
            }
        )
        with pytest.raises(JobFailed) as failed:
            client.jobs.wait(job.id, timeout_s=WAIT_S)
    error = failed.value.job.error
    assert error is not None
    start, end = error.message.find("["), error.message.rfind("]")
    assert start >= 0, error
    found: list[str] = json.loads(error.message[start : end + 1])
    return found


def test_user_code_finds_no_secret_in_any_process_file_or_socket(
    attacked: Service, tmp_path: Path
) -> None:
    home = attacked.home.resolve()
    secret = (home / "webhook-secret").read_text().strip()
    known = [SECRET, attacked.key or "", secret]
    assert intrude(attacked, tmp_path, home=str(home), known=known) == []


def test_no_process_with_secrets_unpickles_what_a_worker_returns(
    attacked: Service, marker: Path, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    intrude(attacked, code, marker=str(marker), wait_s=5.0)
    found = [json.loads(line) for line in marker.read_text().splitlines()]
    assert found, "the trap was not read: the test proves nothing"
    assert [url for url, _ in found if url] == []
    assert [command for _, command in found if "schedule" in command] == []
