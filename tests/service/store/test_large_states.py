"""States, hypergradients and checkpoints in the artifact store, of which Redis has the names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.warm_start import StartSpec
from drmad_service.errors import ResultNotFound
from drmad_service.store import Lease, ResumePoint, Store, StoreSettings
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.artifacts.store import TRAINING, VECTORS, ArtifactLocation, ArtifactStore
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactLocation(str(tmp_path / "artifacts")).open()


@pytest.fixture
def store(redis: Redis, artifacts: ArtifactStore) -> Store:
    return Store(redis, artifacts=artifacts)


def kept(artifacts: ArtifactStore, job_id: str, content: bytes, part: str = VECTORS) -> Artifact:
    """As a worker writes it."""
    found = JobArtifacts(artifacts.location, job_id, 0).keep_content(part, content)
    assert isinstance(found, Artifact)
    return found


async def commit(
    store: Store, artifacts: ArtifactStore, lease: Lease, number: int, **changes: Any
) -> None:
    """A window whose state, hypergradient and training state are artifacts."""
    state = kept(artifacts, lease.job_id, f"large state {number + 1}".encode())
    gradient = kept(artifacts, lease.job_id, f"large gradient {number}".encode())
    training = kept(artifacts, lease.job_id, f"training {number + 1}".encode(), TRAINING)
    point = ResumePoint(number + 1, state, {"iteration": number + 1})
    checkpoint = [ResumePoint(number + 1, training, {"step": number})]
    parts: dict[str, Any] = {
        "next_state": point,
        "hypergradient": gradient,
        "training": checkpoint,
    } | changes
    await store.commit(lease, replace(step(number), **parts))


async def test_redis_has_the_names_and_a_job_resumes_from_them(
    store: Store, redis: Redis, artifacts: ArtifactStore, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    for number in range(3):
        await commit(store, artifacts, lease, number)
    point = await store.resume_point(lease.job_id)
    assert point is not None
    assert isinstance(point.tensors, Artifact)
    key = f"jobs/{lease.job_id}/vectors/{point.tensors.sha256}"
    assert artifacts.read(key, point.tensors) == b"large state 3"
    assert await store.vectors(lease.job_id, 2, "hypergradient") == b"large gradient 2"
    first, _ = await store.kept_point(lease.job_id, 0)
    assert first.tensors == b"state 0"  # small ones are in Redis
    (training,) = await store.checkpoint(lease.job_id, 3)
    assert training.tensors == kept(artifacts, lease.job_id, b"training 3", TRAINING)
    assert await redis.hlen(keys.job(lease.job_id, "chunks")) == 1
    assert await redis.hlen(keys.job(lease.job_id, "checkpoint_chunks")) == 0


async def test_what_the_budget_drops_is_removed_and_what_is_named_stays(
    redis: Redis, artifacts: ArtifactStore, spec: JobSpec
) -> None:
    store = Store(redis, StoreSettings(vector_bytes=0, checkpoint_bytes=0), artifacts=artifacts)
    lease = await started(store, spec)
    for number in range(6):
        await commit(store, artifacts, lease, number)
    named = (await store.artifacts_of([lease.job_id]))[lease.job_id]
    assert {entry.key.rpartition("/")[2] for entry in artifacts.entries()} == {
        each.sha256 for each in named
    }
    assert len(await store.checkpoints(lease.job_id)) == 3
    assert await store.remove_unnamed_artifacts(grace_s=-10.0) == 0


@pytest.mark.parametrize("damage", ["lost", "damaged"])
async def test_a_lost_or_damaged_state_is_found_before_a_worker_reads_it(
    store: Store, artifacts: ArtifactStore, spec: JobSpec, tmp_path: Path, damage: str
) -> None:
    lease = await started(store, spec)
    await commit(store, artifacts, lease, 0)
    for entry in artifacts.entries():
        if damage == "lost":
            artifacts.remove([entry.key])
            continue
        file = tmp_path / "damaged"
        file.write_bytes(bytes(entry.size))
        artifacts.put(file, entry.key)
    with pytest.raises(ResultNotFound, match="no longer kept"):
        await store.resume_point(lease.job_id)
    with pytest.raises(ResultNotFound, match="no longer kept"):
        await store.checkpoint(lease.job_id, 1)


@pytest.fixture
def online(spec: JobSpec) -> JobSpec:
    meta = {"mode": "online", "window": 5, "checkpoint_every": 1, "iterations": 12}
    return JobSpec.model_validate(spec.model_dump() | {"meta": meta, "training": {"steps": 60}})


async def test_a_fork_and_a_warm_start_have_copies_that_outlive_the_first_job(
    store: Store, artifacts: ArtifactStore, online: JobSpec
) -> None:
    spec, lease = online, await started(store, online)
    for number in range(4):
        await commit(store, artifacts, lease, number)
    fork = await store.fork(lease.job_id, 3, spec, spec)
    warm = spec.model_copy(update={"start": StartSpec(job=lease.job_id, iteration=2)})
    other, _ = await store.create(warm)
    await store.act(lease, Action.SUCCEED, "iterations")
    await store.delete(lease.job_id)
    assert await store.remove_unnamed_artifacts(grace_s=-10.0) == 0
    point = await store.resume_point(fork.id)
    assert point is not None
    assert isinstance(point.tensors, Artifact)
    (training,) = await store.checkpoint(fork.id, 3)
    assert isinstance(training.tensors, Artifact)
    started_at = await store.warm_start(other.id)
    assert started_at is not None
    assert isinstance(started_at.tensors, Artifact)


async def test_a_rollback_removes_the_state_that_it_replaces(
    store: Store, artifacts: ArtifactStore, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    await commit(store, artifacts, lease, 0, training=())
    smaller = kept(artifacts, lease.job_id, b"smaller")
    await store.roll_back(lease, ResumePoint(1, smaller, {"rollbacks": 1}), "went too far")
    folder = f"jobs/{lease.job_id}/vectors"
    left = {entry.key.rpartition("/")[2] for entry in artifacts.entries(folder)}
    gradient = kept(artifacts, lease.job_id, b"large gradient 0")
    assert left == {smaller.sha256, gradient.sha256}
