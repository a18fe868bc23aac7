"""What the doctor finds of the artifact store, and the options that name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from drmad_service.errors import ServiceStartError
from drmad_service.operations.doctor.artifact_store import examine_artifacts
from drmad_service.operations.options import artifact_location
from drmad_workers.artifacts.store import ArtifactLocation
from tests.s3 import S3


def test_the_doctor_tries_the_store(s3: S3, tmp_path: Path) -> None:
    location = s3.new_bucket()
    assert examine_artifacts(location).level == "ok"
    absent = examine_artifacts(ArtifactLocation("s3://absent/x", s3.options))
    assert (absent.level, "create the bucket" in absent.message) == ("error", True)
    (tmp_path / "file").write_text("no folder")
    assert examine_artifacts(ArtifactLocation(str(tmp_path / "file"))).level == "error"


def test_the_options_file_holds_an_object(tmp_path: Path) -> None:
    options = tmp_path / "options.json"
    options.write_text('{"key": "k"}')
    assert artifact_location("s3://bucket", options) == ArtifactLocation(
        "s3://bucket", {"key": "k"}
    )
    assert artifact_location("", options) is None
    for content in ("[1]", "{"):
        options.write_text(content)
        with pytest.raises(ServiceStartError, match="expected a JSON object with the options"):
            artifact_location("s3://bucket", options)
