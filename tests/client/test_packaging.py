"""The client as its user gets it: types that checkers read, and a wheel that is light."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client" / "drmad_client"
PROGRAM = Path(__file__).with_name("users_program.py")
MISTAKES = """
import drmad_client as drmad
job: int = drmad.Client().jobs.retrieve("job_1")
drmad.Client().jobs.create(1)
drmad.Client().jobs.retrieve("job_1").bset
"""


def checked(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "checker",
    [
        ["mypy", "--strict"],
        pytest.param(["pyright", "--pythonpath", sys.executable], marks=pytest.mark.full),
    ],
)
def test_types_of_a_users_program_are_right_and_its_mistakes_are_found(
    checker: list[str], tmp_path: Path
) -> None:
    assert checked(*checker, str(PROGRAM)).returncode == 0
    wrong = tmp_path / "wrong.py"
    wrong.write_text(MISTAKES)
    found = checked(*checker, str(wrong))
    assert found.returncode == 1
    for line in (3, 4, 5):
        assert f"wrong.py:{line}" in found.stdout


@pytest.mark.full
def test_the_wheel_alone_is_light_and_says_what_is_missing(tmp_path: Path) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    pip = [sys.executable, "-m", "pip"]
    built = run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT))
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 2_000_000
    names = zipfile.ZipFile(wheel).namelist()
    templates = {path.relative_to(CLIENT) for path in CLIENT.glob("spec/templates/*/*")}
    assert len(templates) >= 14
    for name in (Path("py.typed"), *templates):
        assert f"drmad_client/{name.as_posix()}" in names
    run(sys.executable, "-m", "venv", "alone")
    alone = tmp_path / "alone" / "bin"
    installed = run(str(alone / "pip"), "install", "--quiet", str(wheel))
    assert installed.returncode == 0, installed.stderr
    listed = run(str(alone / "pip"), "list", "--format", "freeze").stdout.lower()
    packages = {line.partition("==")[0] for line in listed.split()}
    assert packages >= {"drmad", "httpx", "numpy"}
    assert packages.isdisjoint({"torch", "ray", "fastapi", "redis", "plotly", "pandas"})
    drmad = str(alone / "drmad")
    assert run(drmad, "init", "new").returncode == 0
    assert run(drmad, "--help").stdout.count("Not installed") >= 4
    up = run(drmad, "up")
    assert (up.returncode, up.stdout) == (1, "")
    assert up.stderr.endswith('install it with: pip install ".[all]" in the clone\n')
