"""`drmad up` says why it cannot start, announces what listens alone, and ends with a code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from drmad_service.operations import supervisor


def up(home: Path, port: int, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "drmad_client", "up", "--port", str(port), "--no-browser"],
        env=os.environ | {"DRMAD_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_taken_port_and_a_taken_home_are_said_first(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused = up(tmp_path, port)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert (
            f"cannot listen at port {port} of 127.0.0.1: Address already in use" in refused.stderr
        )
        with supervisor._locked(tmp_path):
            refused = up(tmp_path, port)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"error: another drmad up uses the home {tmp_path}; stop it, or choose another --home\n"
    )


def test_an_api_that_never_listens_is_not_announced(tmp_path: Path) -> None:
    failed = up(tmp_path, free_port(), DRMAD_MAX_BODY_BYTES="many")
    assert failed.returncode == 1
    assert "drmad is at" not in failed.stdout
    assert "drmad serve does not start" in failed.stderr
    assert "DRMAD_MAX_BODY_BYTES" in failed.stderr


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@pytest.mark.parametrize("command", [("jobs",), ("up", "--help")])
def test_without_a_home_there_is_no_bug(command: tuple[str, ...]) -> None:
    program = (
        "import pathlib, sys\n"
        "def none(*_): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = none\n"
        "from drmad_client.cli.main import run\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    environment = os.environ | {"DRMAD_URL": "http://127.0.0.1:9"}
    environment.pop("DRMAD_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", program, *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == (69 if command == ("jobs",) else 0)
    assert "no drmad service was reached" in done.stderr or not done.stderr
