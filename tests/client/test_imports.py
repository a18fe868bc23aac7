"""The client is light: what it loads, and when."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "fastapi", "redis", "sklearn", "drmad_workers", "drmad_service")
SLOW = {
    "torch",
    "ray",
    "fastapi",
    "redis",
    "sklearn",
    "httpx",
    "numpy",
    "yaml",
    "drmad_client.spec",
}
HELP = """
from drmad_client.cli.main import run
assert run(["--help"]) == 0
"""
COMPLETION = """
import contextlib, io, os
os.environ |= {"_DRMAD_COMPLETE": "complete_bash", "COMP_WORDS": "drmad re", "COMP_CWORD": "1"}
from drmad_client.cli.main import run
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    run([])
assert shown.getvalue().split() == ["resume", "recipe", "retrain", "restore"], shown.getvalue()
"""


def loaded_after(code: str) -> set[str]:
    report = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", report], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["drmad_client.http.client", "drmad_client.cli.main"])
def test_the_client_loads_none_of_the_others(module: str) -> None:
    assert loaded_after(f"import {module}").isdisjoint(HEAVY)


@pytest.mark.parametrize("code", ["import drmad_client.cli.main", HELP])
def test_the_command_line_and_its_help_wait_with_what_takes_time(code: str) -> None:
    assert loaded_after(code).isdisjoint(SLOW | {"pydantic"})


def test_completion_waits_with_what_takes_time() -> None:
    """Pydantic is left out: typer 0.29 reads the options before a command with it."""
    assert loaded_after(COMPLETION).isdisjoint(SLOW)


def test_the_clients_own_commands_do_not_load_the_extras() -> None:
    code = "from drmad_client.cli.main import run; assert run(['version']) == 0"
    assert loaded_after(code).isdisjoint(HEAVY)
