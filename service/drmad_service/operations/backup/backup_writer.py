"""Writes jobs to a backup file; backups.py describes its format, reads it and restores from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from redis.asyncio import Redis

from drmad_client import __version__
from drmad_client.spec.job import JobSpec
from drmad_service.errors import JobNotFound
from drmad_service.operations.backup import backup_artifacts
from drmad_service.operations.backup.backups import (
    BINARY_PARTS,
    FORMAT,
    JSON_PARTS,
    BackupError,
    code_digest,
    data_digests,
)
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.files.job_artifacts import artifacts_in
from drmad_service.store.layout import keys
from drmad_service.store.layout.schema import SCHEMA
from drmad_service.store.tenant_limits import OwnLimits
from drmad_workers.artifacts.artifact import Artifact, ArtifactError
from drmad_workers.artifacts.store import ArtifactStore

_ATTEMPTS = 10
"""Attempts to read a job whose old vectors are deleted meanwhile."""


async def write(
    redis: Redis,
    data: DataFolder,
    path: Path,
    job_ids: Sequence[str] = (),
    artifacts: ArtifactStore | None = None,
) -> list[str]:
    """Writes the jobs, or all of them with the limits of tenants, to a new file. Returns their ids.

    The file holds a consistent state of each job, read in one transaction.

    Raises:
        BackupError: the file exists, or cannot be written.
        JobNotFound: a requested job does not exist.
    """
    if path.exists():
        raise BackupError(f"{path} exists; choose another name")
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            written = await write_to(redis, data, file, job_ids, artifacts)
        draft.replace(path)
    except OSError as error:
        raise BackupError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder that this user "
            "may write, or - for the standard output"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return written


async def write_to(
    redis: Redis,
    data: DataFolder,
    file: BinaryIO,
    job_ids: Sequence[str] = (),
    artifacts: ArtifactStore | None = None,
) -> list[str]:
    """The same to a stream, which need not be seekable.

    Raises:
        JobNotFound: a requested job does not exist.
    """
    client: Any = redis
    ids = [*job_ids] or [raw.decode() for raw in await client.zrange(keys.JOBS, 0, -1)]
    written: list[str] = []
    specs: list[JobSpec] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for job_id in ids:
            try:
                specs.append(await _write_job(client, archive, job_id, artifacts))
                written.append(job_id)
            except JobNotFound:
                if job_ids:
                    raise  # otherwise the job was deleted meanwhile
        for sha256 in sorted(set(filter(None, map(code_digest, specs)))):
            parts = await client.hgetall(keys.code(sha256))
            if parts:
                content = b"".join(parts[number] for number in sorted(parts, key=int))
                archive.writestr(f"code/{sha256}", content, zipfile.ZIP_STORED)
        for sha256 in sorted(set().union(*map(data_digests, specs))):
            if data.holds(sha256):
                name = f"data/{sha256}"
                await asyncio.to_thread(archive.write, data.path(sha256), name, zipfile.ZIP_STORED)
        manifest = {
            "format": FORMAT,
            "schema": SCHEMA,
            "drmad": __version__,
            "at": datetime.now(UTC).isoformat(),
            "jobs": written,
            "limits": {} if job_ids else await _limits(redis),
        }
        _put(archive, "manifest.json", manifest)
    return written


async def _limits(redis: Redis) -> dict[str, Any]:
    found = await OwnLimits(redis).all()
    return {tenant: limits.model_dump(exclude_none=True) for tenant, limits in found.items()}


async def _write_job(
    client: Any, archive: zipfile.ZipFile, job_id: str, artifacts: ArtifactStore | None
) -> JobSpec:
    """Writes one job; returns its spec."""
    for _ in range(_ATTEMPTS):
        fields, parts, chunks = await _snapshot(client, job_id)
        if fields is None:
            raise JobNotFound(job_id)
        contents = {
            (part, name): await client.hget(keys.job(job_id, part), name) for part, name in chunks
        }
        named = artifacts_in(json.dumps([fields, parts]))
        if None not in contents.values():
            try:
                await _write_artifacts(archive, job_id, named, artifacts)
                break
            except backup_artifacts.ArtifactsChanged:
                continue
    else:
        raise BackupError(
            f"job {job_id} changes faster than it can be read, or has lost an artifact; pause it "
            "first"
        )
    _put(archive, f"jobs/{job_id}/job.json", fields)
    for part, value in parts.items():
        _put(archive, f"jobs/{job_id}/{part}.json", value)
    for (part, name), content in contents.items():
        archive.writestr(f"jobs/{job_id}/{part}/{name}", content, zipfile.ZIP_STORED)
    return JobSpec.accepted(fields["spec"])


async def _write_artifacts(
    archive: zipfile.ZipFile, job_id: str, named: set[Artifact], store: ArtifactStore | None
) -> None:
    """
    Raises:
        ArtifactsChanged: the job has replaced one of them.
        BackupError: the store fails.
    """
    if store is None or not named:
        return
    try:
        with backup_artifacts.opened(store, job_id, named) as readers:
            for name, reader in readers.items():
                await asyncio.to_thread(backup_artifacts.write, archive, job_id, name, reader)
    except ArtifactError as error:
        raise BackupError(f"the artifacts of job {job_id} cannot be read: {error}") from error


async def _snapshot(
    client: Any, job_id: str
) -> tuple[dict[str, str] | None, dict[str, Any], list[tuple[str, str]]]:
    """Fields, parts and names of the chunks of a job, read in one transaction."""
    kinds = [(await client.type(keys.job(job_id, part))).decode() for part in JSON_PARTS]
    pipe = client.pipeline(transaction=True)
    pipe.hgetall(keys.job(job_id))
    for part in BINARY_PARTS:
        pipe.hkeys(keys.job(job_id, part))
    for part, kind in zip(JSON_PARTS, kinds, strict=True):
        key = keys.job(job_id, part)
        if kind == "string":
            pipe.get(key)
        elif kind == "hash":
            pipe.hgetall(key)
        elif kind == "list":
            pipe.lrange(key, 0, -1)
        elif kind == "stream":
            pipe.xrange(key)
            pipe.xinfo_stream(key)
    fields, *answers = await pipe.execute()
    if not fields:
        return None, {}, []
    replies = iter(answers)
    chunks = [(part, name.decode()) for part in BINARY_PARTS for name in next(replies)]
    parts = {
        part: _json_of(kind, replies)
        for part, kind in zip(JSON_PARTS, kinds, strict=True)
        if kind != "none"
    }
    return _texts(fields), parts, chunks


def _json_of(kind: str, replies: Iterator[Any]) -> dict[str, Any]:
    value = next(replies)
    if kind == "stream":
        info = next(replies)
        return {
            "stream": [[entry.decode(), _texts(fields)] for entry, fields in value],
            "last": info["last-generated-id"].decode(),
            "added": info["entries-added"],
        }
    if kind == "hash":
        return {"hash": _texts(value)}
    if kind == "list":
        return {"list": [item.decode() for item in value]}
    return {"string": (value or b"").decode()}


def _texts(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _put(archive: zipfile.ZipFile, name: str, value: Any) -> None:
    archive.writestr(name, json.dumps(value))
