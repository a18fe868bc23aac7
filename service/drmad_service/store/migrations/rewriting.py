"""Rewrites the parts of stored jobs in bounded batches, without an effect when repeated.

Every write is one transaction that watches the schema version. A process that was frozen in the
middle therefore writes nothing after another process has finished the migration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from drmad_service.store.layout import keys
from drmad_service.store.layout.ids import new_id

Fields = dict[str, str]

COPY_S = 600
"""Expiry of an unfinished copy of a stream, in seconds."""
_JOBS = 500
"""Job ids read at once."""
_ENTRIES = 200
"""Entries of a stream or a hash rewritten at once."""


class MigrationEnded(Exception):
    """Another process has finished the migration, or began another one."""


@dataclass(frozen=True)
class JobRewriting:
    """How a migration rewrites a job. A function returns current data unchanged.

    Attributes:
        fields: rewrites the fields of the job's hash.
        values: rewrites a string, or each value of a hash, by the name of its part.
        entries: rewrites the fields of each entry of a stream, by the name of its part.
    """

    fields: Callable[[Fields], Fields]
    values: Mapping[str, Callable[[str], str]]
    entries: Mapping[str, Callable[[Fields], Fields]]

    def exported(self, part: str, value: dict[str, Any]) -> dict[str, Any]:
        """Rewrites a part as a backup holds it: a string, a hash or the entries of a stream."""
        if rewrite := self.values.get(part):
            if "string" in value:
                return value | {"string": rewrite(value["string"])}
            return value | {"hash": {name: rewrite(text) for name, text in value["hash"].items()}}
        if change := self.entries.get(part):
            return value | {
                "stream": [[entry, change(fields)] for entry, fields in value["stream"]]
            }
        return value


async def write(redis: Any, marker: str, commands: Callable[[Any], None]) -> None:
    """Execute the commands in one transaction, while the schema version is `marker`.

    Raises:
        MigrationEnded: it is another one.
        WatchError: it changed during the call.
    """
    async with redis.pipeline(transaction=True) as pipe:
        await pipe.watch(keys.SCHEMA)
        found = await pipe.get(keys.SCHEMA)
        if found != marker.encode():
            raise MigrationEnded(f"the schema version must be {marker}, got {found!r}")
        pipe.multi()
        commands(pipe)
        await pipe.execute()


async def rewrite_jobs(redis: Any, marker: str, rewriting: JobRewriting) -> None:
    start = 0
    while ids := await redis.zrange(keys.JOBS, start, start + _JOBS - 1):
        for raw in ids:
            await _rewrite_job(redis, marker, raw.decode(), rewriting)
        start += len(ids)


async def _rewrite_job(redis: Any, marker: str, job_id: str, rewriting: JobRewriting) -> None:
    for part, rewrite in rewriting.values.items():
        key = keys.job(job_id, part)
        if await redis.type(key) == b"hash":
            await _rewrite_hash(redis, marker, key, rewrite)
        else:
            await _rewrite_string(redis, marker, key, rewrite)
    for part, change in rewriting.entries.items():
        await _rewrite_stream(redis, marker, keys.job(job_id, part), change)
    await _rewrite_fields(redis, marker, keys.job(job_id), rewriting.fields)


async def _rewrite_string(redis: Any, marker: str, key: str, rewrite: Callable[[str], str]) -> None:
    raw = await redis.get(key)
    if raw is None or (after := rewrite(raw.decode())) == raw.decode():
        return
    await write(redis, marker, lambda pipe: pipe.set(key, after))


async def _rewrite_hash(redis: Any, marker: str, key: str, rewrite: Callable[[str], str]) -> None:
    cursor = 0
    while True:
        cursor, found = await redis.hscan(key, cursor, count=_ENTRIES)
        before = _texts(found)
        after = {name: rewrite(text) for name, text in before.items()}
        changed = {name: text for name, text in after.items() if text != before[name]}
        if changed:
            await write(redis, marker, partial(_set_fields, key=key, fields=changed))
        if not cursor:
            return


def _set_fields(pipe: Any, key: str, fields: Fields) -> None:
    pipe.hset(key, mapping=fields)


async def _rewrite_fields(
    redis: Any, marker: str, key: str, rewrite: Callable[[Fields], Fields]
) -> None:
    before = _texts(await redis.hgetall(key))
    if not before:  # deleted before the migration began
        return
    after = rewrite(before)
    changed = {name: text for name, text in after.items() if before.get(name) != text}
    gone = [name for name in before if name not in after]

    def commands(pipe: Any) -> None:
        if changed:
            pipe.hset(key, mapping=changed)
        if gone:
            pipe.hdel(key, *gone)

    if changed or gone:
        await write(redis, marker, commands)


async def _rewrite_stream(
    redis: Any, marker: str, key: str, rewrite: Callable[[Fields], Fields]
) -> None:
    """Copy the stream with rewritten entries under the same ids, then rename the copy."""
    if not await _differs(redis, key, rewrite):
        return
    copy = f"{key}:{new_id('copy')}"
    start = "-"
    while entries := await redis.xrange(key, min=start, count=_ENTRIES):
        rewritten = [(entry, rewrite(_texts(fields))) for entry, fields in entries]

        def append(pipe: Any, batch: list[tuple[bytes, Fields]] = rewritten) -> None:
            for entry, fields in batch:
                pipe.xadd(copy, fields, id=entry)
            pipe.expire(copy, COPY_S)

        await write(redis, marker, append)
        start = f"({entries[-1][0].decode()}"
    info = await redis.xinfo_stream(key)

    def replace(pipe: Any) -> None:
        # Readers find out from these numbers whether entries behind their position were trimmed.
        last, added = info["last-generated-id"], info["entries-added"]
        deleted = info["max-deleted-entry-id"]
        pipe.execute_command("XSETID", copy, last, "ENTRIESADDED", added, "MAXDELETEDID", deleted)
        pipe.persist(copy)
        pipe.rename(copy, key)

    await write(redis, marker, replace)


async def _differs(redis: Any, key: str, rewrite: Callable[[Fields], Fields]) -> bool:
    start = "-"
    while entries := await redis.xrange(key, min=start, count=_ENTRIES):
        for _, raw in entries:
            fields = _texts(raw)
            if rewrite(fields) != fields:
                return True
        start = f"({entries[-1][0].decode()}"
    return False


def _texts(fields: Mapping[bytes, bytes]) -> Fields:
    return {name.decode(): value.decode() for name, value in fields.items()}
