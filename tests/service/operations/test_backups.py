"""A backup brings jobs back as they were, and a file that is none changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis
from safetensors import numpy as safetensors

from drmad_client.records.service.usage import TenantLimits
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service.errors import JobNotFound, LeaseLost
from drmad_service.operations.backup.backup_writer import write
from drmad_service.operations.backup.backups import (
    Backup,
    BackupError,
    BackupSummary,
    restore,
    restore_limits,
)
from drmad_service.operations.orphans import orphans
from drmad_service.store import Capacity, Store
from drmad_service.store.access.large_values import CHUNK_BYTES
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from tests.client.cli import command_line
from tests.service.homes import HOMES, SCHEMA_2
from tests.service.store.test_store import started, step
from tests.service.stored_models import model

pytestmark = pytest.mark.anyio

CAPACITY = Capacity(4.0, 0.0)
NO_DATA = DataFolder(Path("nowhere"))
CHANGED = {"transitions", "reason", "message", "version", "waiting"}
"""Fields of a queued job that differ after a restore, before a scheduler polls the queue."""


async def bring_back(
    redis: Redis, store: Store, path: Path, data: DataFolder = NO_DATA, **options: Any
) -> list[BackupSummary]:
    with Backup(path) as backup:
        return [outcome async for outcome in restore(store, redis, data, backup, **options)]


async def everything(redis: Redis) -> dict[str, Any]:
    """Every key of jobs with its value, but for what restoring changes."""
    found: dict[str, Any] = {}
    client: Any = redis
    async for raw in client.scan_iter("drmad:*"):
        name, kind = raw.decode(), (await client.type(raw)).decode()
        assert await client.ttl(raw) == -1, name
        if kind == "hash":
            found[name] = await client.hgetall(raw)
        elif kind == "list":
            found[name] = await client.lrange(raw, 0, -1)
        elif kind == "stream":
            info = await client.xinfo_stream(raw)
            found[name] = (await client.xrange(raw), info["entries-added"])
        elif kind == "zset":
            found[name] = await client.zrange(raw, 0, -1, withscores=True)
        elif kind == "set":
            found[name] = await client.smembers(raw)
        else:
            found[name] = await client.get(raw)
    for name, value in found.items():
        if name.startswith(keys.job("")) and isinstance(value, dict):
            value.pop(b"fence", None)
            value.pop(b"version", None)
    for passing in (keys.CODES, keys.CLUSTER, "drmad:counters", keys.SCHEMA):
        found.pop(passing, None)
    return found


async def ended(store: Store, spec: JobSpec) -> str:
    lease = await started(store, spec)
    for iteration in range(3):
        await store.commit(lease, step(iteration, model=bytes(CHUNK_BYTES + iteration)))
    await store.log(lease, 0, ["a line with ü and \n in it"])
    await store.act(lease, Action.SUCCEED, "iterations")
    return lease.job_id


async def test_jobs_come_back_as_they_were(
    redis: Redis, store: Store, spec: JobSpec, tmp_path: Path
) -> None:
    job_id = await ended(store, spec)
    await store.create(spec, tenant="team")
    await store.pause((await store.create(spec))[0].id)
    limits = {"team": TenantLimits(gpus=0.5, stored_bytes=10**9), "other": TenantLimits(uploads=0)}
    for tenant, own in limits.items():
        await store.own_limits.replace(tenant, own, "operator")
    before, path = await everything(redis), tmp_path / "all.zip"
    jobs = [await store.get(job.id) for job in reversed((await store.jobs()).data)]
    assert await write(redis, NO_DATA, path) == [job.id for job in jobs]
    await redis.flushall()
    outcomes = await bring_back(redis, store, path)
    assert [outcome.restored for outcome in outcomes] == [True] * 3
    await store.own_limits.replace("team", TenantLimits(gpus=2.0), "operator")
    with Backup(path) as backup:
        assert await restore_limits(redis, backup) == ["other"]
        assert (await store.own_limits.of("team")).gpus == 2.0
        assert await restore_limits(redis, backup, replace=True) == ["other", "team"]
    assert await store.own_limits.all() == limits
    after = await everything(redis)
    assert after.keys() == before.keys()
    ended_keys = [key for key in before if job_id in key]
    assert len(ended_keys) > 8
    assert {key: after[key] for key in ended_keys} == {key: before[key] for key in ended_keys}
    assert after[keys.ENDED] == before[keys.ENDED]
    assert after[keys.QUEUE] == before[keys.QUEUE]
    for job in jobs:
        again = await store.get(job.id)
        assert again.model_dump(exclude=CHANGED) == job.model_dump(exclude=CHANGED)
    assert await orphans(redis) == []
    assert await model(store, job_id, "last") == (2, bytes(CHUNK_BYTES + 2))


async def test_restored_job_can_be_forked_extended_and_deleted(
    redis: Redis, store: Store, spec: JobSpec, tmp_path: Path
) -> None:
    job_id, path = await ended(store, spec), tmp_path / "one.zip"
    await write(redis, NO_DATA, path, [job_id])
    vectors = await store.vectors(job_id, 1, "state")
    await redis.flushall()
    await bring_back(redis, store, path)
    assert await store.vectors(job_id, 1, "state") == vectors
    fork = await store.fork(job_id, 1, spec, spec)
    lease = await store.claim("scheduler", 10.0, CAPACITY)
    assert lease is not None
    assert lease.job_id == fork.id
    point = await store.resume_point(fork.id)
    assert point is not None
    assert (point.iteration, point.tensors) == (1, vectors)
    await store.delete(job_id)
    assert await orphans(redis) == []


async def test_running_job_is_queued_and_its_old_scheduler_cannot_write(
    redis: Redis, store: Store, spec: JobSpec, tmp_path: Path
) -> None:
    lease, path = await started(store, spec), tmp_path / "one.zip"
    await store.commit(lease, step(0))
    await write(redis, NO_DATA, path)
    await redis.flushall()
    (outcome,) = await bring_back(redis, store, path)
    assert (outcome.restored, outcome.detail) == (True, "was running, is queued")
    job = await store.get(lease.job_id)
    assert (job.status, job.reason, job.progress.iteration) == (JobStatus.QUEUED, "restored", 1)
    again = await store.claim("scheduler", 10.0, CAPACITY)
    assert again is not None
    with pytest.raises(LeaseLost):
        await store.commit(lease, step(1))
    await store.commit(again, step(1))
    assert await orphans(redis) == []


async def test_code_of_a_job_comes_with_it(
    redis: Redis, store: Store, body: dict[str, Any], tmp_path: Path
) -> None:
    content = b"code" * (CHUNK_BYTES // 3)
    sha256 = hashlib.sha256(content).hexdigest()
    await store.put_code(sha256, content, "team")
    body["problem"] = {"entrypoint": "m:build", "code": f"sha256:{sha256}"}
    body["hyperparameters"] = [{"kind": "l2"}]
    await store.create(JobSpec.model_validate(body), tenant="team")
    await write(redis, NO_DATA, tmp_path / "one.zip")
    await redis.flushall()
    await bring_back(redis, store, tmp_path / "one.zip")
    assert await store.code(sha256) == content
    assert await store.has_code(sha256, "team")
    assert not await store.has_code(sha256, "other")


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]


async def accept(path: Path) -> None:
    assert path.stat().st_size


@pytest.mark.parametrize("field", ["data", "weights"])
async def test_files_that_users_uploaded_come_with_their_jobs(
    redis: Redis, store: Store, body: dict[str, Any], tmp_path: Path, field: str
) -> None:
    content = safetensors.save({"x": np.zeros((50_000, 10), np.float32)})
    sha256 = hashlib.sha256(content).hexdigest()
    before, after = DataFolder(tmp_path / "before"), DataFolder(tmp_path / "after")
    await before.put(sha256, pieces(content), accept)
    await store.note_data(sha256, "team")
    uploaded = {"name": "upload", "data": f"sha256:{sha256}", "train": 100, "valid": 50}
    body["problem"][field] = uploaded if field == "data" else f"sha256:{sha256}"
    for _ in range(2):  # it is written once
        await store.create(JobSpec.model_validate(body), tenant="team")
    path = tmp_path / "one.zip"
    await write(redis, before, path)
    assert len(content) < path.stat().st_size < 1.2 * len(content)
    await redis.flushall()
    await bring_back(redis, store, path, after)
    assert after.path(sha256).read_bytes() == content
    assert await store.has_data(sha256, "team")
    assert not await store.has_data(sha256, "other")

    def exchanged(members: dict[str, bytes]) -> None:
        members[f"data/{sha256}"] = content[:-4] + b"more"

    await redis.flushall()
    other = DataFolder(tmp_path / "other")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        wrong = rewritten(path, tmp_path / "wrong.zip", exchanged, method)
        with pytest.raises(BackupError, match="data/"):
            await bring_back(redis, store, wrong, other)
    assert list((tmp_path / "other").iterdir()) == []
    assert (await store.jobs()).data == []


async def test_nothing_is_overwritten_without_the_option(
    redis: Redis, store: Store, spec: JobSpec, tmp_path: Path
) -> None:
    job_id, path = await ended(store, spec), tmp_path / "all.zip"
    running = await started(store, spec)
    await write(redis, NO_DATA, path)
    before = await everything(redis)
    outcomes = await bring_back(redis, store, path)
    assert {o.detail for o in outcomes} == {"exists already"}
    assert await everything(redis) == before
    outcomes = await bring_back(redis, store, path, replace=True)
    assert {o.job_id: o.restored for o in outcomes} == {job_id: True, running.job_id: False}
    await store.commit(running, step(0))  # it still is the scheduler's
    with pytest.raises(BackupError, match="exists"):
        await write(redis, NO_DATA, path)
    with pytest.raises(JobNotFound):
        await write(redis, NO_DATA, tmp_path / "other.zip", ["job_unknown"])
    assert not (tmp_path / "other.zip").exists()


def rewritten(
    source: Path,
    target: Path,
    change: Callable[[dict[str, bytes]], None],
    method: int = zipfile.ZIP_DEFLATED,
) -> Path:
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def damaged_chunk(members: dict[str, bytes]) -> None:
    members[next(name for name in members if "/chunks/" in name)] = b"other"


def bomb(members: dict[str, bytes]) -> None:
    members[next(name for name in members if "/chunks/" in name)] = bytes(64 << 20)


def path_traversal(members: dict[str, bytes]) -> None:
    members["jobs/../../etc/passwd"] = b"x"


def pickled(members: dict[str, bytes]) -> None:
    members["jobs/state.pkl"] = b"\x80\x04."


def newer(members: dict[str, bytes]) -> None:
    members["manifest.json"] = json.dumps({"format": 1, "schema": 99}).encode()


def no_json(members: dict[str, bytes]) -> None:
    members[next(name for name in members if name.endswith("history.json"))] = b"[" * 100_000


def other_kind(members: dict[str, bytes]) -> None:
    members[next(name for name in members if name.endswith("state.json"))] = b'{"list": 7}'


def no_spec(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.endswith("job.json"))
    members[name] = json.dumps(json.loads(members[name]) | {"spec": "{}"}).encode()


def spaced_tenant(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.endswith("job.json"))
    members[name] = json.dumps(json.loads(members[name]) | {"tenant": "a b"}).encode()


@pytest.mark.parametrize(
    "change",
    [
        damaged_chunk,
        bomb,
        path_traversal,
        pickled,
        newer,
        no_json,
        other_kind,
        no_spec,
        spaced_tenant,
    ],
)
async def test_what_is_no_backup_is_refused_and_leaves_nothing(
    redis: Redis,
    store: Store,
    spec: JobSpec,
    tmp_path: Path,
    change: Callable[[dict[str, bytes]], None],
) -> None:
    await ended(store, spec)
    await write(redis, NO_DATA, tmp_path / "good.zip")
    wrong = rewritten(tmp_path / "good.zip", tmp_path / "wrong.zip", change)
    await redis.flushall()
    with pytest.raises(BackupError):
        await bring_back(redis, store, wrong)
    assert (await store.jobs()).data == []
    assert await orphans(redis) == []  # what was written expires


async def test_jobs_of_an_earlier_schema_are_restored_in_this_one(
    redis: Redis, store: Store
) -> None:
    """The file was written by the previous version."""
    outcomes = await bring_back(redis, store, HOMES / "schema-2-backup.zip")
    assert [(outcome.job_id, outcome.restored) for outcome in outcomes] == [
        (SCHEMA_2[name], True) for name in ("shortcut", "rollback", "paused")
    ]
    shortcut = await store.get(SCHEMA_2["shortcut"])
    assert shortcut.spec.hypergradient.method == "shortcut"
    assert shortcut.spec.hypergradient.minibatch_subsampling == 2
    assert shortcut.spec.meta.rollback_tolerance == 4.0
    assert shortcut.preflight is not None
    rollbacks = [e for e in await store.events(SCHEMA_2["rollback"]) if e.type == "rollback"]
    assert [event.data["rollback"] for event in rollbacks] == [1, 2, 1, 2]
    paused = SCHEMA_2["paused"]
    point = await store.resume_point(paused)
    assert point is not None
    assert point.scalars["choice"]["next_probe"] == 5
    assert (await store.fidelity(paused))["choices"][0]["reason"] == "first"
    assert (await store.kept_point(paused, 3))[0].scalars["rollbacks"] == 0
    assert await orphans(redis) == []


@pytest.mark.parametrize("part", ["job", "state", "vectors", "history", "events"])
async def test_damaged_part_of_an_earlier_schema_is_refused(
    part: str, redis: Redis, store: Store, tmp_path: Path
) -> None:
    def damage(members: dict[str, bytes]) -> None:
        members[f"jobs/{SCHEMA_2['paused']}/{part}.json"] = b'{"list": ["{}"]}'

    wrong = rewritten(HOMES / "schema-2-backup.zip", tmp_path / "wrong.zip", damage)
    with pytest.raises(BackupError, match=f"{SCHEMA_2['paused']} cannot be read"):
        await bring_back(redis, store, wrong, job_ids=[SCHEMA_2["paused"]])
    assert (await store.jobs()).data == []


async def test_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no")
    with pytest.raises(BackupError, match="cannot be read"):
        Backup(tmp_path / "text.zip")


async def test_commands_write_and_bring_back_and_say_what_was_left_out(
    redis: Redis, redis_url: str, store: Store, spec: JobSpec, tmp_path: Path
) -> None:
    job_id = await ended(store, spec)

    async def drmad(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = (*arguments, "--redis-url", redis_url)
        return await asyncio.to_thread(command_line.drmad, *command)

    path = str(tmp_path / "all.zip")
    written = await drmad("backup", path)
    assert (written.returncode, written.stdout[:6]) == (0, "1 jobs"), written.stderr
    left_out = await drmad("restore", path)
    assert left_out.returncode == 1
    assert f"{job_id} skipped: exists already" in left_out.stdout
    assert "--replace" in left_out.stderr
    await redis.flushall()
    restored = await drmad("restore", path, job_id)
    assert (restored.returncode, restored.stdout) == (0, f"{job_id} restored: succeeded\n")
    assert (await store.get(job_id)).status is JobStatus.SUCCEEDED


async def test_backup_passes_through_a_pipe(
    redis: Redis, redis_url: str, store: Store, spec: JobSpec, tmp_path: Path
) -> None:
    """As an operator has it from a container, whose files are nowhere else."""
    job_id = await ended(store, spec)

    async def drmad(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "drmad_client", *arguments, "--redis-url", redis_url]
        command += ["--data-dir", str(tmp_path / "data")]
        return await asyncio.to_thread(
            subprocess.run, command, capture_output=True, input=stdin, check=False
        )

    written = await drmad("backup", "-")
    assert (written.returncode, written.stderr) == (0, b"1 jobs written\n")
    before = await everything(redis)
    await redis.flushall()
    restored = await drmad("restore", "-", stdin=written.stdout)
    assert (restored.returncode, restored.stdout) == (0, f"{job_id} restored: succeeded\n".encode())
    after, prefix = await everything(redis), keys.job(job_id)
    of_job = {key: value for key, value in before.items() if key.startswith(prefix)}
    assert len(of_job) > 8
    assert {key: after[key] for key in of_job} == of_job
    assert [*(tmp_path / "data").iterdir()] == []
    damaged = await drmad("restore", "-", stdin=written.stdout[:-100])
    assert damaged.returncode == 1
    assert b"cannot be read as a backup" in damaged.stderr


async def test_folder_that_may_not_be_written_is_named(
    redis: Redis, store: Store, spec: JobSpec, tmp_path: Path
) -> None:
    await ended(store, spec)
    with pytest.raises(BackupError, match=r"nowhere/all\.zip cannot be written \(No such file"):
        await write(redis, NO_DATA, tmp_path / "nowhere" / "all.zip")
