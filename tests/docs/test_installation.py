"""The commands that install drmad work as they are printed, each in a fresh environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks

pytestmark = pytest.mark.full  # torch alone is a download of hundreds of megabytes

INSTALL = [
    block
    for block in blocks(ROOT / "README.md")
    if block.language == "sh" and ("pip install" in block.text or "make install" in block.text)
]
PROOF = {
    "make install": ".venv/bin/python -c 'import drmad_service.api.app, drmad_workers.tuning'",
    'pip install ".[all]"': "drmad --help && python -c 'import pandas, drmad_workers.tuning'",
    "make dist": "drmad --help && python -c 'import drmad_service.api.app, drmad_workers.tuning'",
}


def of(first: str) -> Block:
    return next(block for block in INSTALL if block.first_line.startswith(first))


def test_three_ways_are_printed() -> None:
    assert [block.first_line.partition("  ")[0] for block in INSTALL] == list(PROOF)


@pytest.mark.parametrize("first", PROOF)
def test_it_installs_from_a_clone(first: str, tmp_path: Path) -> None:
    clone, fresh = tmp_path / "drmad", tmp_path / "environment"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    subprocess.run([sys.executable, "-m", "venv", fresh], check=True)
    kept = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    environment = kept | {"PATH": f"{fresh / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"set -eu\n{of(first).text}\n{PROOF[first]}"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
