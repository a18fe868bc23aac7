"""Tries the artifact store: writes a file, finds it, reads it back and removes it."""

from __future__ import annotations

from drmad_service.operations.doctor.finding import Finding
from drmad_workers.artifacts.artifact import ArtifactError
from drmad_workers.artifacts.store import ArtifactLocation


def examine_artifacts(location: ArtifactLocation) -> Finding:
    try:
        location.open().try_out()
    except ArtifactError as error:
        advice = "correct --artifacts-url, the credentials or the rights; large models need it"
        return Finding("artifact store", "error", str(error), advice)
    return Finding("artifact store", "ok", f"{location.shown} takes, lists and returns a file")
