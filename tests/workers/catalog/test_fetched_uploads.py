"""Uploads that a worker copies from the artifact store, because it shares no folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from drmad_workers.artifacts.artifact import ArtifactDamaged
from drmad_workers.artifacts.store import ArtifactLocation
from drmad_workers.catalog.places import Places
from drmad_workers.errors import ProblemError

CONTENT = b"inputs and targets"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"sha256:{SHA256}"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    location = ArtifactLocation(str(tmp_path / "store"))
    return Places((), tmp_path / "no-folder", artifacts=location)


def stored(places: Places, content: bytes) -> None:
    assert places.artifacts is not None
    store = places.artifacts.open()
    with store.scratch() as file:
        file.write_bytes(content)
        store.put(file, SHA256)


def test_an_upload_is_copied_once_and_checked_each_time(places: Places) -> None:
    stored(places, CONTENT)
    file = places.upload(NAME, "problem.data")
    assert file.read_bytes() == CONTENT
    assert places.artifacts is not None
    places.artifacts.open().remove([SHA256])
    assert places.upload(NAME, "problem.data") == file
    file.write_bytes(b"changed by another job")
    with pytest.raises(ProblemError, match="is not on this worker"):
        places.upload(NAME, "problem.data")
    stored(places, CONTENT)
    assert places.upload(NAME, "problem.data").read_bytes() == CONTENT
    assert [path.name for path in file.parent.iterdir()] == [SHA256]


def test_a_damaged_upload_is_refused(places: Places) -> None:
    stored(places, b"other bytes")
    with pytest.raises(ArtifactDamaged, match="its digest differs"):
        places.upload(NAME, "problem.data")


def test_the_shared_folder_comes_first(places: Places) -> None:
    assert places.uploads is not None
    places.uploads.mkdir()
    (places.uploads / SHA256).write_bytes(CONTENT)
    assert places.upload(NAME, "problem.data") == places.uploads / SHA256
