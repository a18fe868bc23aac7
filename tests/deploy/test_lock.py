"""What is installed is what was locked: the two lists name the same packages, with their hashes."""

from __future__ import annotations

import re

from tests.deploy.containers import ROOT


def test_every_locked_package_has_its_hashes() -> None:
    locked = (ROOT / "requirements.lock").read_text().splitlines()
    hashed = (ROOT / "requirements-hashes.lock").read_text()
    entries = re.split(r"\n(?=\S)", hashed.strip())
    names = [_name(entry) for entry in entries]
    assert sorted(names) == sorted(map(_name, locked)), "make hashes"
    for name, entry in zip(names, entries, strict=True):
        digests = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry)
        # The wheels of torch differ between its indexes: one for each kind of GPU, one for none.
        assert bool(digests) != name.startswith("torch=="), name


def _name(line: str) -> str:
    """The package and its version, as indexes write them."""
    return re.sub(r"[-_.]+(?=.*==)", "-", re.split(r"[ ;\\]", line)[0]).lower()
