"""The bill of materials: of this environment and this machine, in place of an image's."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.deploy.containers import ROOT


def test_bill_keeps_to_the_schema_and_has_every_package() -> None:
    if shutil.which("dpkg-query") is None:
        pytest.skip("needs Debian's list of packages")
    script = runpy.run_path(str(ROOT / "deploy" / "sbom.py"))
    command = [sys.executable, "-m", "pip", "inspect"]
    inspected = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    query = ["dpkg-query", "-W", "-f", script["_DEBIAN"]]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    text = script["bill"]("drmad-api:0.1.0", inspected, listed)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert (
        JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace("purl", "pur"))
        is not None
    )
    written = json.loads(text)
    assert written["metadata"]["component"]["version"] == "0.1.0"
    found = {component["purl"] for component in written["components"]}
    assert len(found) == len(inspected["installed"]) + len(listed)
    assert any(purl.startswith("pkg:pypi/torch@") for purl in found)
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in found)
