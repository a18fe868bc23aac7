"""A worker keeps small results in Redis and large ones as artifacts, whose store may be away."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from drmad_workers.artifacts.artifact import Artifact, ArtifactsDenied, ArtifactStoreFails
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.artifacts.store import MODELS, ArtifactLocation, ArtifactStore
from drmad_workers.ray_actor import model_keeping

SMALL = {"weight": torch.arange(4.0)}
LARGE = {"weight": torch.arange(5000.0).reshape(50, 100).T, "steps": torch.tensor(3)}


def of_job(store: ArtifactStore) -> JobArtifacts:
    return JobArtifacts(store.location, "job_1", most_inline=16)


def test_a_small_result_is_bytes_and_a_large_one_an_artifact(store: ArtifactStore) -> None:
    artifacts = of_job(store)
    small = artifacts.keep(MODELS, SMALL)
    assert isinstance(small, bytes)
    assert torch.equal(load(small)["weight"], SMALL["weight"])
    assert store.entries() == []
    large = artifacts.keep(MODELS, LARGE)
    assert isinstance(large, Artifact)
    read = load(artifacts.read(MODELS, large))
    assert all(torch.equal(read[name], LARGE[name]) for name in LARGE)
    assert [entry.key for entry in store.entries()] == [f"jobs/job_1/models/{large.sha256}"]
    assert artifacts.keep(MODELS, LARGE) == large  # the same bytes, the same name
    assert len(store.entries()) == 1


def test_a_worker_waits_for_a_store_that_is_away_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "artifacts"
    job = place / "jobs" / "job_1"
    job.parent.mkdir(parents=True)
    job.write_text("in the way of the folder")
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            job.unlink()

    monkeypatch.setattr("drmad_workers.artifacts.job_artifacts.time.sleep", sleep)
    artifacts = JobArtifacts(ArtifactLocation(str(place)), "job_1", 16)
    kept = artifacts.keep(MODELS, LARGE)
    assert isinstance(kept, Artifact)
    assert pauses == [0.5, 1.0]
    assert "tries again in 0.5 s" in capsys.readouterr().err
    job.rename(place / "moved")
    job.write_text("in the way again")
    with pytest.raises(ArtifactStoreFails, match="fails at jobs/job_1/models"):
        artifacts.keep(MODELS, LARGE)
    assert len(pauses) == 2 + 6


def test_a_model_goes_to_redis_where_the_worker_may_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refused)
    artifacts = JobArtifacts(ArtifactLocation(str(tmp_path / "artifacts")), "job_1", 16)
    with pytest.raises(ArtifactsDenied, match="Read-only file system"):
        artifacts.keep(MODELS, LARGE)
    kept = model_keeping.saved_model(LARGE, 1 << 30, artifacts)
    assert isinstance(kept, bytes)
    assert torch.equal(load(kept)["weight"], LARGE["weight"])
    assert "the operator must let the workers write there" in capsys.readouterr().err
    monkeypatch.setattr(model_keeping, "MOST_WITHOUT_STORE_BYTES", 16)
    assert model_keeping.saved_model(LARGE, 1 << 30, artifacts) is None
