"""What says, before a job trains, whether its model will be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from drmad_workers.artifacts.artifact import ArtifactsDenied
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.artifacts.store import ArtifactLocation, ArtifactStore
from drmad_workers.ray_actor.model_keeping import model_refusal


@pytest.fixture
def artifacts(tmp_path: Path) -> JobArtifacts:
    return JobArtifacts(ArtifactLocation(str(tmp_path / "store")), "job_1", most_inline=100)


def test_a_model_within_the_bounds_is_kept(artifacts: JobArtifacts) -> None:
    assert model_refusal(1000, 1000) == ""
    assert model_refusal(1000, 1000, artifacts) == ""
    assert artifacts.location.open().entries() == []


def test_a_model_above_the_bound_is_refused_with_both_figures(artifacts: JobArtifacts) -> None:
    refusal = model_refusal(1001, 1000, artifacts)
    assert "at most 1,000 bytes (max_model_bytes of the service), got 1,001" in refusal
    assert "hyperparameters and history are kept" in refusal
    assert "ask the operator to raise the bound" in refusal


def test_a_store_that_denies_the_worker_is_found_before_the_training(
    artifacts: JobArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: ArtifactStore) -> None:
        raise ArtifactsDenied("the folder is read-only")

    monkeypatch.setattr(ArtifactStore, "try_out", denied)
    assert model_refusal(100, 1 << 30, artifacts) == ""  # it goes to Redis anyway
    assert model_refusal(1000, 1 << 30, artifacts) == ""  # it goes to Redis in this case
    refusal = model_refusal(65 << 20, 1 << 30, artifacts)
    assert "68,157,440 bytes do not fit into Redis, and the folder is read-only" in refusal


def test_a_store_that_fails_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    broken = JobArtifacts(ArtifactLocation(str(file)), "job_1", most_inline=0)
    assert "cannot be kept now: the artifact store" in model_refusal(10, 1000, broken)
