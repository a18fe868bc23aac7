"""Large states between a worker and the scheduler are artifacts; small ones travel in messages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drmad_workers.artifacts.artifact import Artifact, ArtifactsDenied, ArtifactStoreFails
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.artifacts.store import ArtifactLocation
from drmad_workers.errors import EngineError
from drmad_workers.meta.state import MetaState
from drmad_workers.ray_actor.messages import PackedTraining, StepResult
from drmad_workers.ray_actor.packed_state import pack, unpack
from drmad_workers.ray_actor.state_files import StateFiles

STATE = MetaState({"l2": torch.arange(5000.0)})


@pytest.fixture
def artifacts(tmp_path: Path) -> JobArtifacts:
    return JobArtifacts(ArtifactLocation(str(tmp_path / "store")), "job_1", most_inline=1000)


def test_a_large_state_is_an_artifact_that_another_worker_reads(artifacts: JobArtifacts) -> None:
    packed = pack(STATE)
    kept = StateFiles(artifacts).keep(packed)
    assert isinstance(kept.tensors, Artifact)
    assert kept.scalars == packed.scalars
    assert StateFiles(artifacts).read(kept) == packed
    with pytest.raises(EngineError, match="must be read first"):
        unpack(kept)
    training = StateFiles(artifacts).keep(PackedTraining(bytes(2000), {}))
    (_, state), (_, other) = sorted(
        (entry.key.split("/")[2], entry.size) for entry in artifacts.location.open().entries()
    )
    assert {state, other} == {kept.tensors.size, 2000}
    assert StateFiles(artifacts).read(training).tensors == bytes(2000)


def test_what_a_worker_wrote_itself_is_not_read_again(artifacts: JobArtifacts) -> None:
    files = StateFiles(artifacts)
    packed = pack(STATE)
    kept = files.keep(packed)
    artifacts.location.open().remove_below("jobs/job_1")
    assert files.read(kept) == packed


def test_a_small_state_stays_in_its_message(artifacts: JobArtifacts) -> None:
    small = pack(MetaState({"l2": torch.zeros(3)}))
    assert StateFiles(artifacts).keep(small) == small
    assert StateFiles(artifacts).read(small) == small
    assert StateFiles(None).keep(pack(STATE)) == pack(STATE)


def test_a_step_names_its_state_and_its_hypergradient(artifacts: JobArtifacts) -> None:
    step = StateFiles(artifacts).step(StepResult({}, pack(STATE), bytes(3000), None, None))
    assert isinstance(step.state.tensors, Artifact)
    assert isinstance(step.hypergradient, Artifact)
    assert StateFiles(artifacts).content(step.hypergradient) == bytes(3000)


def test_a_worker_that_may_not_write_sends_the_state_itself(
    artifacts: JobArtifacts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(*_: object) -> Artifact:
        raise ArtifactsDenied("the folder is read-only")

    monkeypatch.setattr(JobArtifacts, "keep_content", denied)
    assert StateFiles(artifacts).keep(pack(STATE)) == pack(STATE)
    assert "the operator must let the workers write there" in capsys.readouterr().err


def test_a_worker_without_a_store_says_what_it_lacks(artifacts: JobArtifacts) -> None:
    kept = StateFiles(artifacts).keep(pack(STATE))
    with pytest.raises(ArtifactStoreFails, match="has no artifact store"):
        StateFiles(None).read(kept)
