from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from drmad_workers.artifacts.store import ArtifactLocation, ArtifactStore


@pytest.fixture(params=["folder", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty store of each kind."""
    if request.param == "s3":
        location: ArtifactLocation = request.getfixturevalue("s3").new_bucket()
    elif request.param == "memory":
        location = ArtifactLocation(f"memory://{secrets.token_hex(8)}")
    else:
        location = ArtifactLocation(str(tmp_path / "artifacts"))
    return location.open()
