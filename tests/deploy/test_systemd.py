"""The unit for systemd: by systemd's own reading, where it is installed."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.containers import ROOT

UNIT = ROOT / "deploy" / "systemd" / "drmad.service"


def test_systemd_accepts_the_unit_and_finds_it_closed_enough(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/drmad/bin/drmad", "/bin/true"))

    def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["systemd-analyze", *arguments, str(unit)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    verified = analyze("verify", "--man=no")
    assert (verified.returncode, verified.stderr) == (0, "")
    closed = analyze("security", "--offline=true", "--threshold=40")  # of 100; 96 without settings
    assert closed.returncode == 0, closed.stdout[-300:]
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=perhaps"))
    assert "perhaps" in analyze("verify", "--man=no").stderr


def test_unit_runs_the_service_as_a_user_of_its_own_in_a_home_that_is_kept() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["User"] == "drmad"
    assert service["ExecStart"] == "/opt/drmad/bin/drmad up --no-browser"
    assert f"DRMAD_HOME=/var/lib/{service['StateDirectory']}" in service["Environment"].split()
    # What `drmad up` needs to stop by itself, and more: see --stop-s.
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > 2 * 8
