"""The scripts of benchmarks/."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.full
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_starts_and_takes_the_options_of_the_page(script: Path) -> None:
    """Every file there is run by `make bench`, so what is no script lies in a folder below."""
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"--quick", "--json"} <= set(done.stdout.split())
