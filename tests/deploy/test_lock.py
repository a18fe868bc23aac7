"""What is installed is what was locked: the two lists name the same packages, with their hashes."""

from __future__ import annotations

import importlib.metadata
import re

from packaging.requirements import Requirement

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


def test_packages_of_the_images_are_locked() -> None:
    """Nodes of a Ray cluster need the extra `default`, which one machine does without."""
    metadata = importlib.metadata.requires("ray") or []
    wanted = [Requirement(line) for line in metadata]
    extra = [r for r in wanted if r.marker and r.marker.evaluate({"extra": "default"})]
    locks = ("requirements.lock", "deploy/images.lock")
    lines = [line for lock in locks for line in (ROOT / lock).read_text().splitlines()]
    names = [_name(line).split("==")[0] for line in lines]
    assert len(extra) > 8
    assert [r.name for r in extra if _name(r.name + "==").rstrip("=") not in names] == []
    assert len(names) == len(set(names)), "a package is locked once"


def _name(line: str) -> str:
    """The package and its version, as indexes write them."""
    return re.sub(r"[-_.]+(?=.*==)", "-", re.split(r"[ ;\\]", line)[0]).lower()
