"""Jobs in a file and back: a zip of JSON and of the chunks as they are, named by their content.

    manifest.json                   format, schema, version, time, the jobs
    jobs/<id>/job.json              the fields of the job
    jobs/<id>/<part>.json           a part of it: {"string": ...}, {"hash": ...}, {"list": ...} or
                                    {"stream": [[id, fields], ...], "last": ..., "added": ...}
    jobs/<id>/chunks/<sha256>       likewise model_chunks
    code/<sha256>                   archives of user code that the jobs name
    data/<sha256>                   data sets that their users uploaded

Nothing in it is executed or unpickled. Keys that open the service and sessions are not in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from redis.asyncio import Redis

from drmad_client import __version__
from drmad_client.errors import DrmadError
from drmad_client.files.array_file import DataError
from drmad_client.files.zip_errors import ZIP_ERRORS
from drmad_client.records.job import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_client.spec.problem import uploaded_data
from drmad_service.errors import JobNotFound
from drmad_service.store import Store, keys
from drmad_service.store.data_folder import DataFolder, WrongDigest
from drmad_service.store.large_values import CHUNK_BYTES, COPY_S
from drmad_service.store.schema import REWRITINGS, SCHEMA

FORMAT = 1
LARGEST_JSON = 256 << 20
LARGEST_CODE = 64 << 20
_BINARY = ("chunks", "model_chunks")
_PARTS = tuple(part for part in keys.PARTS if part not in _BINARY)
_TRIES = 10
"""Of a job whose vectors are thinned while they are read."""
_JOB_ID = r"job_[0-9A-Z]{26}"
_NAMES = re.compile(
    rf"manifest\.json|jobs/{_JOB_ID}/(?:job|{'|'.join(_PARTS)})\.json"
    rf"|jobs/{_JOB_ID}/(?:{'|'.join(_BINARY)})/[0-9a-f]{{64}}|(?:code|data)/[0-9a-f]{{64}}"
)
_AFTER = {
    JobStatus.STARTING: JobStatus.QUEUED,
    JobStatus.RUNNING: JobStatus.QUEUED,
    JobStatus.PAUSING: JobStatus.PAUSED,
    JobStatus.CANCELLING: JobStatus.CANCELLED,
}
"""Nobody drives a job that is restored."""


class BackupError(DrmadError):
    """The file is no backup, is damaged, or does not fit this service."""


@dataclass(frozen=True)
class BackupSummary:
    """What became of one job."""

    job_id: str
    restored: bool
    detail: str


async def write(
    redis: Redis, data: DataFolder, path: Path, job_ids: Sequence[str] = ()
) -> list[str]:
    """Write the jobs, or all, to a new file; each as it is at one moment. Returns their ids.

    Raises:
        BackupError: the file exists.
        JobNotFound: a job that was asked for does not exist.
    """
    if path.exists():
        raise BackupError(f"{path} exists; choose another name")
    client: Any = redis
    ids = [*job_ids] or [raw.decode() for raw in await client.zrange(keys.JOBS, 0, -1)]
    written: list[str] = []
    specs: list[JobSpec] = []
    draft = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            for job_id in ids:
                try:
                    specs.append(await _write_job(client, archive, job_id))
                    written.append(job_id)
                except JobNotFound:
                    if job_ids:
                        raise  # else it was deleted meanwhile
            for sha256 in sorted(set(filter(None, map(_code_of, specs)))):
                parts = await client.hgetall(keys.code(sha256))
                if parts:
                    content = b"".join(parts[number] for number in sorted(parts, key=int))
                    archive.writestr(f"code/{sha256}", content, zipfile.ZIP_STORED)
            for sha256 in sorted(set(filter(None, map(_data_of, specs)))):
                if data.holds(sha256):
                    name = f"data/{sha256}"
                    await asyncio.to_thread(
                        archive.write, data.path(sha256), name, zipfile.ZIP_STORED
                    )
            _put(
                archive,
                "manifest.json",
                {
                    "format": FORMAT,
                    "schema": SCHEMA,
                    "drmad": __version__,
                    "at": datetime.now(UTC).isoformat(),
                    "jobs": written,
                },
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return written


async def _write_job(client: Any, archive: zipfile.ZipFile, job_id: str) -> JobSpec:
    """Returns what the job is."""
    for _ in range(_TRIES):
        fields, parts, chunks = await _snapshot(client, job_id)
        if fields is None:
            raise JobNotFound(job_id)
        contents = {
            (part, name): await client.hget(keys.job(job_id, part), name) for part, name in chunks
        }
        if None not in contents.values():
            break
    else:
        raise BackupError(f"job {job_id} changes faster than it can be read; pause it first")
    _put(archive, f"jobs/{job_id}/job.json", fields)
    for part, value in parts.items():
        _put(archive, f"jobs/{job_id}/{part}.json", value)
    for (part, name), content in contents.items():
        archive.writestr(f"jobs/{job_id}/{part}/{name}", content, zipfile.ZIP_STORED)
    return JobSpec.model_validate_json(fields["spec"])


def _code_of(spec: JobSpec) -> str | None:
    return spec.problem.code.removeprefix("sha256:") if spec.problem.kind == "code" else None


def _data_of(spec: JobSpec) -> str | None:
    named = uploaded_data(spec.problem)
    return named[0].removeprefix("sha256:") if named else None


async def _snapshot(
    client: Any, job_id: str
) -> tuple[dict[str, str] | None, dict[str, Any], list[tuple[str, str]]]:
    """Fields, parts and names of chunks of a job, all of one moment."""
    kinds = [(await client.type(keys.job(job_id, part))).decode() for part in _PARTS]
    pipe = client.pipeline(transaction=True)
    pipe.hgetall(keys.job(job_id))
    for part in _BINARY:
        pipe.hkeys(keys.job(job_id, part))
    for part, kind in zip(_PARTS, kinds, strict=True):
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
    following = iter(answers)
    chunks = [(part, name.decode()) for part in _BINARY for name in next(following)]
    parts = {
        part: _described(kind, following)
        for part, kind in zip(_PARTS, kinds, strict=True)
        if kind != "none"
    }
    return _texts(fields), parts, chunks


def _described(kind: str, answers: Iterator[Any]) -> dict[str, Any]:
    value = next(answers)
    if kind == "stream":
        info = next(answers)
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


class Backup:
    """A backup that was opened, and looked over before anything of it is used."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            BackupError: it is no backup, is damaged, or holds what does not belong into one.
        """
        try:
            self._archive = zipfile.ZipFile(path)
        except ZIP_ERRORS as error:
            raise BackupError(f"{path} cannot be read as a backup: {error}") from error
        self._sizes: dict[str, int] = {}
        for info in self._archive.infolist():
            if not _NAMES.fullmatch(info.filename) or info.filename in self._sizes:
                self._archive.close()
                raise BackupError(f"{path} holds {info.filename!r}, which is no part of a backup")
            self._sizes[info.filename] = info.file_size
        manifest = self._json("manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise BackupError(f"the format must be {FORMAT}; a newer drmad may read this file")
        schema = manifest.get("schema")
        if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
            raise BackupError(
                f"the jobs are of schema {schema}, this drmad reads schemas up to {SCHEMA}: "
                "restore with the version that wrote them"
            )
        self._rewritings = [REWRITINGS[n] for n in range(schema, SCHEMA) if n in REWRITINGS]
        self.job_ids = [name.split("/")[1] for name in self._sizes if name.endswith("/job.json")]

    def __enter__(self) -> Backup:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def fields(self, job_id: str) -> dict[str, str]:
        """The fields of a job's hash, in the current schema."""
        fields = self._json(f"jobs/{job_id}/job.json")
        try:
            for rewriting in self._rewritings:
                fields = rewriting.fields(fields)
            JobSpec.model_validate_json(fields["spec"])
            JobStatus(fields["status"])
            int(fields["iteration"]), float(fields["rank"])
            if not re.fullmatch(r"\S{1,128}", fields["tenant"]):
                raise ValueError(f"tenant {fields['tenant']!r}")
        except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
            raise BackupError(f"job {job_id} is not one that this drmad knows: {error}") from error
        return {str(name): str(value) for name, value in fields.items()}

    def parts(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The other parts of a job, in the current schema."""
        for part in _PARTS:
            if (name := f"jobs/{job_id}/{part}.json") in self._sizes:
                value = self._json(name)
                try:
                    for rewriting in self._rewritings:
                        value = rewriting.exported(part, value)
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    raise BackupError(f"{name} is damaged: {error!r}") from error
                yield part, value

    def chunks(self, job_id: str) -> Iterator[tuple[str, str, bytes]]:
        """Part, name and content of every chunk."""
        for name in self._sizes:
            of, _, rest = name.removeprefix("jobs/").partition("/")
            part, _, sha256 = rest.partition("/")
            if of == job_id and part in _BINARY:
                yield part, sha256, self._content(name, CHUNK_BYTES)

    def code(self, sha256: str) -> bytes | None:
        name = f"code/{sha256}"
        return self._content(name, LARGEST_CODE) if name in self._sizes else None

    async def data(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes of an uploaded data set piece by piece, none where it is not in the file."""
        name = f"data/{sha256}"
        if name not in self._sizes:
            return
        if self._archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise BackupError(f"{name} is compressed, which no backup does")
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
        """Not more than is allowed, whatever the archive says of its sizes."""
        try:
            with self._archive.open(name) as file:
                content = file.read(most_bytes + 1)
        except (KeyError, *ZIP_ERRORS) as error:
            raise BackupError(f"{name} cannot be read: {error}") from error
        if len(content) > most_bytes:
            raise BackupError(f"{name} is larger than {most_bytes} bytes")
        return content


async def restore(
    store: Store,
    redis: Redis,
    data: DataFolder,
    backup: Backup,
    job_ids: Sequence[str] = (),
    replace: bool = False,
) -> AsyncIterator[BackupSummary]:
    """Bring jobs back under their ids; those that were running are queued.

    Args:
        job_ids: which of them; none for all.
        replace: also those that exist, where they have ended.
    Raises:
        BackupError: the file lacks a job that was asked for, or is damaged.
        StoreFull: too little of the memory budget is left.
    """
    if missing := set(job_ids) - set(backup.job_ids):
        raise BackupError(f"the file does not hold {', '.join(sorted(missing))}")
    for job_id in job_ids or backup.job_ids:
        await store.must_have_room()
        fields = backup.fields(job_id)
        if await store.tenant_of(job_id) is not None:
            if not replace:
                yield BackupSummary(job_id, False, "exists already")
                continue
            if not (await store.get(job_id)).status.is_terminal:
                yield BackupSummary(job_id, False, "exists and has not ended; cancel it first")
                continue
            await store.delete(job_id)
        await _restore_uploads(store, data, backup, fields)
        yield await _restore_job(store, redis, backup, job_id, fields)


async def _restore_uploads(
    store: Store, data: DataFolder, backup: Backup, fields: dict[str, str]
) -> None:
    """The code and the data that a job names, for its tenant."""
    spec = JobSpec.model_validate_json(fields["spec"])
    if code := _code_of(spec):
        content = await asyncio.to_thread(backup.code, code)
        if content is not None:
            await store.put_code(code, content, fields["tenant"])
    sha256 = _data_of(spec)
    if sha256 is None or not (data.holds(sha256) or backup.holds_data(sha256)):
        return
    if not data.holds(sha256):
        try:
            await data.put(sha256, backup.data(sha256))
        except (WrongDigest, DataError, *ZIP_ERRORS) as error:
            raise BackupError(f"data/{sha256} is damaged: {error}") from error
    await store.note_data(sha256, fields["tenant"])


async def _restore_job(
    store: Store, redis: Any, backup: Backup, job_id: str, fields: dict[str, str]
) -> BackupSummary:
    names: set[str] = set()
    for part, value in backup.parts(job_id):
        names.add(part)
        await _write_part(redis, keys.job(job_id, part), value)
    for part, sha256, content in backup.chunks(job_id):
        names.add(part)
        await redis.hset(keys.job(job_id, part), sha256, content)
        await redis.expire(keys.job(job_id, part), COPY_S)
    before = JobStatus(fields["status"])
    after = _AFTER.get(before, before)
    if not await store.put_restored(job_id, fields, before, after, sorted(names)):
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
            if entries:  # so that readers whose place was trimmed are told so
                pipe.execute_command("XSETID", key, last, "ENTRIESADDED", added)
        case _:
            raise BackupError(f"{key} is damaged")
    pipe.expire(key, COPY_S)
    await pipe.execute()
