"""Results that are too large for Redis: Redis has their names, the artifact store their bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from redis.asyncio import Redis

from drmad_client.records.job import Best
from drmad_client.spec.job import JobSpec
from drmad_service.errors import ArtifactsFail, ResultNotFound
from drmad_service.operations.backup import backup_writer, backups
from drmad_service.store import Lease, Store
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.artifacts.store import MODELS, ArtifactLocation, ArtifactStore
from tests.service.store.test_store import started, step
from tests.service.stored_models import model

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["folder", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "s3":
        location: ArtifactLocation = request.getfixturevalue("s3").new_bucket()
        return location.open()
    return ArtifactLocation(str(tmp_path / "artifacts")).open()


@pytest.fixture
def store(redis: Redis, artifacts: ArtifactStore) -> Store:
    return Store(redis, artifacts=artifacts)


def written(artifacts: ArtifactStore, lease: Lease, value: float) -> Artifact:
    """A model as a worker writes it."""
    of_job = JobArtifacts(artifacts.location, lease.job_id, most_inline=0)
    kept = of_job.keep(MODELS, {"weight": torch.full((300_000,), value)})
    assert isinstance(kept, Artifact)
    return kept


async def test_a_job_keeps_the_best_and_the_last_model_and_removes_the_others(
    store: Store, redis: Redis, artifacts: ArtifactStore, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    models = [written(artifacts, lease, float(number)) for number in range(3)]
    for number, kept in enumerate(models):
        await store.commit(lease, replace(step(number, is_best=number == 1), model=kept))
    folder = f"jobs/{lease.job_id}/models"
    assert {entry.key for entry in artifacts.entries()} == {
        f"{folder}/{models[1].sha256}",
        f"{folder}/{models[2].sha256}",
    }
    number, content = await model(store, lease.job_id, "best")
    assert number == 1
    assert content == artifacts.read(f"{folder}/{models[1].sha256}", models[1])
    assert await redis.hlen(keys.job(lease.job_id, "model_chunks")) == 0
    _, file = await store.model(lease.job_id, "last")
    assert (file.size, file.sha256) == (models[2].size, models[2].sha256)
    ranged = [piece async for piece in file.pieces(1_000_001, 1_000_005)]
    _, whole = await model(store, lease.job_id, "last")
    assert b"".join(ranged) == whole[1_000_001:1_000_005]


async def test_a_commit_that_is_repeated_keeps_the_model(
    store: Store, artifacts: ArtifactStore, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    kept = replace(step(0), model=written(artifacts, lease, 1.0))
    await store.commit(lease, kept)
    await store.commit(lease, kept)
    await store.commit(lease, replace(step(1, is_best=False), model=kept.model))
    assert len(artifacts.entries()) == 1
    assert (await model(store, lease.job_id, "last"))[0] == 1


async def test_another_best_model_replaces_the_former_one(
    store: Store, artifacts: ArtifactStore, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    first, other = (written(artifacts, lease, value) for value in (1.0, 2.0))
    await store.commit(lease, replace(step(0), model=first))
    await store.commit(lease, replace(step(1, is_best=False), model=b"small"))
    best = Best(iteration=1, validation_loss=0.5)
    await store.keep_confirmation_work(lease, {"plan": {}}, (best, other))
    assert [entry.key.rpartition("/")[2] for entry in artifacts.entries()] == [other.sha256]
    assert (await model(store, lease.job_id, "best"))[0] == 1
    assert await model(store, lease.job_id, "last") == (1, b"small")


async def test_a_lost_and_a_damaged_model_are_told(
    store: Store, artifacts: ArtifactStore, spec: JobSpec, tmp_path: Path
) -> None:
    lease = await started(store, spec)
    kept = written(artifacts, lease, 1.0)
    await store.commit(lease, replace(step(0), model=kept))
    key = f"jobs/{lease.job_id}/models/{kept.sha256}"
    damaged = tmp_path / "damaged"
    damaged.write_bytes(bytes(kept.size))
    artifacts.put(damaged, key)
    with pytest.raises(ResultNotFound, match="is damaged: its digest differs"):
        await model(store, lease.job_id, "best")
    damaged.write_bytes(bytes(10))
    artifacts.put(damaged, key)
    with pytest.raises(ResultNotFound, match=f"has 10 of {kept.size} bytes"):
        await model(store, lease.job_id, "best")
    artifacts.remove([key])
    with pytest.raises(ResultNotFound, match=r"is no longer kept: .* is not in the artifact store"):
        await model(store, lease.job_id, "best")


async def test_a_process_without_the_store_says_so(
    store: Store, redis: Redis, artifacts: ArtifactStore, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    await store.commit(lease, replace(step(0), model=written(artifacts, lease, 1.0)))
    with pytest.raises(ArtifactsFail, match="set DRMAD_ARTIFACTS_URL"):
        await model(Store(redis), lease.job_id, "best")


async def test_what_nothing_names_is_removed_after_a_grace(
    store: Store, artifacts: ArtifactStore, spec: JobSpec, tmp_path: Path
) -> None:
    lease = await started(store, spec)
    kept = written(artifacts, lease, 1.0)
    await store.commit(lease, replace(step(0), model=kept))
    unnamed = written(artifacts, lease, 2.0)  # its worker was lost before the commit
    file = tmp_path / "file"
    file.write_bytes(b"of a job that was never created")
    never = artifacts.keep(file, "jobs/job_never/vectors")
    artifacts.put(file, "jobs/incoming/draft")
    artifacts.put(file, "0" * 64)  # an upload is no result of a job
    assert await store.remove_unnamed_artifacts(grace_s=3600.0) == 0
    assert await store.remove_unnamed_artifacts(grace_s=-10.0) == 3
    left = {entry.key for entry in artifacts.entries()}
    assert left == {f"jobs/{lease.job_id}/models/{kept.sha256}", "0" * 64}
    assert unnamed.sha256 != never.sha256


async def test_a_deleted_job_takes_its_artifacts_with_it(
    store: Store, artifacts: ArtifactStore, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    kept = written(artifacts, lease, 1.0)
    await store.commit(lease, replace(step(0), model=kept))
    assert (await store.artifacts_of([lease.job_id, "job_never"])) == {lease.job_id: {kept}}
    with_model = await store.stored_bytes("local", lambda _: 0)
    assert with_model > kept.size
    await store.act(lease, Action.SUCCEED, "iterations")
    await store.delete(lease.job_id)
    assert artifacts.entries() == []


async def test_a_backup_has_the_artifacts_and_restores_them(
    store: Store, redis: Redis, artifacts: ArtifactStore, spec: JobSpec, tmp_path: Path
) -> None:
    lease = await started(store, spec)
    kept = written(artifacts, lease, 1.0)
    await store.commit(lease, replace(step(0), model=kept))
    before = await model(store, lease.job_id, "best")
    await store.act(lease, Action.SUCCEED, "iterations")
    data, file = DataFolder(tmp_path / "data"), tmp_path / "all.zip"
    await backup_writer.write(redis, data, file, artifacts=artifacts)
    await store.delete(lease.job_id)
    assert artifacts.entries() == []
    with backups.Backup(file) as backup:
        restored = backups.restore(store, redis, data, backup, artifacts=artifacts)
        done = [each async for each in restored]
    assert [each.restored for each in done] == [True]
    assert await model(store, lease.job_id, "best") == before
    artifacts.remove_below(f"jobs/{lease.job_id}")
    with pytest.raises(backups.BackupError, match="has lost an artifact"):
        await backup_writer.write(redis, data, tmp_path / "other.zip", artifacts=artifacts)
