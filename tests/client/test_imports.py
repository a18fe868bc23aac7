"""The client is light: what it loads, and when."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "fastapi", "redis", "sklearn", "drmad_workers", "drmad_service")


def loaded_after(code: str) -> set[str]:
    report = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", report], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["drmad_client.http.client", "drmad_client.cli.main"])
def test_the_client_loads_none_of_the_others(module: str) -> None:
    assert loaded_after(f"import {module}").isdisjoint(HEAVY)


def test_the_command_line_waits_with_what_takes_time() -> None:
    assert loaded_after("import drmad_client.cli.main").isdisjoint(
        {"httpx", "numpy", "pydantic", "yaml"}
    )


def test_the_clients_own_commands_do_not_load_the_extras() -> None:
    code = "from drmad_client.cli.main import run; assert run(['version']) == 0"
    assert loaded_after(code).isdisjoint(HEAVY)
