"""Reads backups of jobs and restores from them; backup_writer.py writes them.

A backup is a zip file:

    manifest.json                   format, schema, version, time, the jobs, and where these are all
                                    of the service, the limits that tenants have of their own
    jobs/<id>/job.json              the fields of the job
    jobs/<id>/<part>.json           one part of it: {"string": ...}, {"hash": ...}, {"list": ...} or
                                    {"stream": [[id, fields], ...], "last": ..., "added": ...}
    jobs/<id>/chunks/<sha256>       one chunk of its vectors; model_chunks and
                                    checkpoint_chunks are stored alike
    jobs/<id>/artifacts/<part>/<sha256>  what is too large for Redis, see artifacts/store.py
    code/<sha256>                   archives of user code that the jobs name
    data/<sha256>                   data sets and weights that their users uploaded

Reading executes and unpickles nothing. A backup holds no keys and no sessions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError
from redis.asyncio import Redis

from drmad_client.errors import DrmadError
from drmad_client.files import data_file
from drmad_client.files.array_file import DataError
from drmad_client.files.zip_errors import ZIP_ERRORS
from drmad_client.records.service.usage import OwnTenantLimits, TenantLimits
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_client.spec.problem import uploaded_files
from drmad_service.operations.backup import backup_artifacts
from drmad_service.store import Store
from drmad_service.store.access.large_values import CHUNK_BYTES, COPY_S
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.files.received_file import WrongDigest
from drmad_service.store.layout import keys
from drmad_service.store.layout.schema import REWRITINGS, SCHEMA
from drmad_service.store.tenant_limits import OwnLimits
from drmad_workers.artifacts.store import PARTS, ArtifactStore

FORMAT = 1
LARGEST_JSON = 256 << 20
LARGEST_CODE = 64 << 20
BINARY_PARTS = ("chunks", "model_chunks", "checkpoint_chunks", "retrained_chunks")
JSON_PARTS = tuple(part for part in keys.PARTS if part not in BINARY_PARTS)
_JOB_ID = r"job_[0-9A-Z]{26}"
_NAMES = re.compile(
    rf"manifest\.json|jobs/{_JOB_ID}/(?:job|{'|'.join(JSON_PARTS)})\.json"
    rf"|jobs/{_JOB_ID}/(?:{'|'.join(BINARY_PARTS)})/[0-9a-f]{{64}}|(?:code|data)/[0-9a-f]{{64}}"
    rf"|jobs/{_JOB_ID}/artifacts/(?:{'|'.join(PARTS)})/[0-9a-f]{{64}}"
)
_AFTER = {
    JobStatus.STARTING: JobStatus.QUEUED,
    JobStatus.RUNNING: JobStatus.QUEUED,
    JobStatus.PAUSING: JobStatus.PAUSED,
    JobStatus.CANCELLING: JobStatus.CANCELLED,
}
"""State of a job after restoring, where it differs: no scheduler holds its lease."""


class BackupError(DrmadError):
    """The file is no backup, is damaged, or is of another version."""


@dataclass(frozen=True)
class BackupSummary:
    """Outcome of restoring one job."""

    job_id: str
    restored: bool
    detail: str


@dataclass(frozen=True)
class JobEntry:
    """One job of a backup: the fields of its hash, and its other parts except the chunks."""

    fields: dict[str, str]
    parts: dict[str, dict[str, Any]]


class Backup:
    """An open backup; every file name in it is verified before any content is read.

    Attributes:
        limits: those that tenants have of their own.
    """

    def __init__(self, file: Path | IO[bytes]) -> None:
        """
        Args:
            file: its path, or an open seekable file.
        Raises:
            BackupError: the file is no backup, is damaged, or holds unexpected files.
        """
        path = file if isinstance(file, Path) else "the file"
        try:
            self._archive = zipfile.ZipFile(file)
        except ZIP_ERRORS as error:
            raise BackupError(f"{path} cannot be read as a backup: {error}") from error
        self._sizes: dict[str, int] = {}
        for info in self._archive.infolist():
            if not _NAMES.fullmatch(info.filename) or info.filename in self._sizes:
                self._archive.close()
                raise BackupError(f"{path} holds the unexpected file {info.filename!r}")
            self._sizes[info.filename] = info.file_size
        manifest = self._json("manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise BackupError(
                f"the backup's format must be {FORMAT}; restore it with the version that wrote it"
            )
        schema = manifest.get("schema")
        if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
            raise BackupError(
                f"the jobs are of schema {schema}, this drmad reads schemas up to {SCHEMA}: "
                "restore with the version that wrote them"
            )
        self.limits = _limits_of(manifest)
        self._rewritings = [REWRITINGS[n] for n in range(schema, SCHEMA) if n in REWRITINGS]
        self.job_ids = [name.split("/")[1] for name in self._sizes if name.endswith("/job.json")]

    def __enter__(self) -> Backup:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def read_job(self, job_id: str) -> JobEntry:
        """
        Raises:
            BackupError: the entry is damaged, or is not one that this version reads.
        """
        fields = self._json(f"jobs/{job_id}/job.json")
        parts = {
            part: self._json(name)
            for part in JSON_PARTS
            if (name := f"jobs/{job_id}/{part}.json") in self._sizes
        }
        try:
            for rewriting in self._rewritings:
                fields = rewriting.fields(fields)
            JobSpec.accepted(fields["spec"])
            JobStatus(fields["status"])
            int(fields["iteration"]), float(fields["rank"])
            if not re.fullmatch(r"\S{1,128}", fields["tenant"]):
                raise ValueError(f"tenant {fields['tenant']!r}")
            for rewriting in self._rewritings:
                parts = {part: rewriting.exported(part, value) for part, value in parts.items()}
        except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
            raise BackupError(f"job {job_id} cannot be read: {error}") from error
        return JobEntry({str(name): str(value) for name, value in fields.items()}, parts)

    def chunks(self, job_id: str) -> Iterator[tuple[str, str, bytes]]:
        """Part, name and content of every chunk."""
        for name in self._sizes:
            of, _, rest = name.removeprefix("jobs/").partition("/")
            part, _, sha256 = rest.partition("/")
            if of == job_id and part in BINARY_PARTS:
                yield part, sha256, self._content(name, CHUNK_BYTES)

    def restore_artifacts(self, job_id: str, store: ArtifactStore | None) -> None:
        """
        Raises:
            ArtifactNotRestored: one is damaged, or the store does not take it.
        """
        for name in self._sizes:
            if store is not None and name.startswith(f"jobs/{job_id}/artifacts/"):
                backup_artifacts.restore(self._archive, name, store)

    def code(self, sha256: str) -> bytes | None:
        name = f"code/{sha256}"
        return self._content(name, LARGEST_CODE) if name in self._sizes else None

    async def data(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes of an uploaded data set in pieces; none if the backup lacks it."""
        name = f"data/{sha256}"
        if name not in self._sizes:
            return
        if self._archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise BackupError(
                f"{name} is damaged: it is compressed, and a backup stores data as they are"
            )
        with self._archive.open(name) as file:
            while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield piece

    def holds_data(self, sha256: str) -> bool:
        return f"data/{sha256}" in self._sizes

    def _content(self, name: str, most_bytes: int) -> bytes:
        content = self._read(name, most_bytes)
        if hashlib.sha256(content).hexdigest() != name.rpartition("/")[2]:
            raise BackupError(f"{name} is damaged: its content has another digest")
        return content

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._read(name, LARGEST_JSON))
        except (ValueError, RecursionError) as error:
            raise BackupError(f"{name} is damaged: {error}") from error

    def _read(self, name: str, most_bytes: int) -> bytes:
        """Reads at most `most_bytes`, whatever size the archive declares."""
        try:
            with self._archive.open(name) as file:
                content = file.read(most_bytes + 1)
        except (KeyError, *ZIP_ERRORS) as error:
            raise BackupError(f"{name} cannot be read: {error}") from error
        if len(content) > most_bytes:
            raise BackupError(f"{name} must not exceed {most_bytes} bytes")
        return content


async def restore(
    store: Store,
    redis: Redis,
    data: DataFolder,
    backup: Backup,
    job_ids: Sequence[str] = (),
    replace: bool = False,
    artifacts: ArtifactStore | None = None,
) -> AsyncIterator[BackupSummary]:
    """Restores jobs under their ids; jobs that were running are queued.

    Args:
        job_ids: the jobs to restore; all if empty.
        replace: replaces existing jobs that have ended; else existing jobs are skipped.
    Raises:
        BackupError: the backup lacks a requested job, or is damaged.
        StoreFull: too little of the memory budget is left.
    """
    if missing := set(job_ids) - set(backup.job_ids):
        raise BackupError(f"the backup holds no {', '.join(sorted(missing))}")
    for job_id in job_ids or backup.job_ids:
        await store.must_have_room()
        entry = backup.read_job(job_id)
        if await store.tenant_of(job_id) is not None:
            if not replace:
                yield BackupSummary(job_id, False, "exists already")
                continue
            if not (await store.get(job_id)).status.is_terminal:
                yield BackupSummary(job_id, False, "exists and has not ended; cancel it first")
                continue
            await store.delete(job_id)
        await _restore_uploads(store, data, backup, entry.fields)
        yield await _restore_job(store, redis, backup, job_id, entry, artifacts)


async def restore_limits(redis: Redis, backup: Backup, replace: bool = False) -> list[str]:
    """Restores the limits that tenants have of their own. Returns the names of these tenants.

    Args:
        replace: replaces limits that a tenant has; else these stay.
    """
    own = OwnLimits(redis)
    present = {} if replace else await own.all()
    restored = sorted(backup.limits.keys() - present.keys())
    for tenant in restored:
        await own.replace(tenant, backup.limits[tenant], "restore")
    return restored


def _limits_of(manifest: dict[str, Any]) -> dict[str, TenantLimits]:
    try:
        found = {
            str(tenant): TenantLimits.model_validate(
                OwnTenantLimits.model_validate(limits).model_dump()
            )
            for tenant, limits in manifest.get("limits", {}).items()
        }
    except (AttributeError, ValidationError) as error:
        raise BackupError(f"the limits of tenants cannot be read: {error}") from error
    return found


def code_digest(spec: JobSpec) -> str | None:
    return spec.problem.code.removeprefix("sha256:") if spec.problem.kind == "code" else None


def data_digests(spec: JobSpec) -> set[str]:
    return {name.removeprefix("sha256:") for name in uploaded_files(spec.problem).values()}


async def _restore_uploads(
    store: Store, data: DataFolder, backup: Backup, fields: dict[str, str]
) -> None:
    """Restores the code and the files that a job names, for its tenant."""
    spec = JobSpec.accepted(fields["spec"])
    if code := code_digest(spec):
        content = await asyncio.to_thread(backup.code, code)
        if content is not None:
            await store.put_code(code, content, fields["tenant"])
    for sha256 in data_digests(spec):
        if not (data.holds(sha256) or backup.holds_data(sha256)):
            continue
        if not data.holds(sha256):
            try:
                await data.put(sha256, backup.data(sha256), _check)
            except (WrongDigest, DataError, *ZIP_ERRORS) as error:
                raise BackupError(f"data/{sha256} is damaged: {error}") from error
        await store.note_data(sha256, fields["tenant"])


async def _check(path: Path) -> None:
    await asyncio.to_thread(data_file.check, path)


async def _restore_job(
    store: Store,
    redis: Any,
    backup: Backup,
    job_id: str,
    entry: JobEntry,
    artifacts: ArtifactStore | None,
) -> BackupSummary:
    names = set(entry.parts)
    for part, value in entry.parts.items():
        await _write_part(redis, keys.job(job_id, part), value)
    for part, sha256, content in backup.chunks(job_id):
        names.add(part)
        await redis.hset(keys.job(job_id, part), sha256, content)
        await redis.expire(keys.job(job_id, part), COPY_S)
    await asyncio.to_thread(backup.restore_artifacts, job_id, artifacts)
    before = JobStatus(entry.fields["status"])
    after = _AFTER.get(before, before)
    if not await store.put_restored(job_id, entry.fields, before, after, sorted(names)):
        return BackupSummary(job_id, False, "exists already")
    return BackupSummary(
        job_id, True, f"{after}" if after is before else f"was {before}, is {after}"
    )


async def _write_part(redis: Any, key: str, value: dict[str, Any]) -> None:
    pipe = redis.pipeline(transaction=True)
    pipe.delete(key)
    match value:
        case {"string": str(text)}:
            pipe.set(key, text)
        case {"hash": dict(entries)}:
            if entries:
                pipe.hset(key, mapping=entries)
        case {"list": list(items)}:
            if items:
                pipe.rpush(key, *items)
        case {"stream": list(entries), "last": str(last), "added": int(added)}:
            for entry, fields in entries:
                pipe.xadd(key, fields, id=entry)
            if entries:  # readers whose last event was trimmed learn it from the counts
                pipe.execute_command("XSETID", key, last, "ENTRIESADDED", added)
        case _:
            raise BackupError(f"{key} is damaged")
    pipe.expire(key, COPY_S)
    await pipe.execute()
