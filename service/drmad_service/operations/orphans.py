"""Finds orphans in Redis: keys and index entries without an owner, which nothing would delete."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import DRIVEN

_LISTED = re.compile(r"^ {4}(drmad:\S+) ", re.MULTILINE)
_PLACEHOLDER = re.compile(r"<[^>]+>")
_SCAN_COUNT = 1000


@dataclass(frozen=True, order=True)
class Orphan:
    """A key or an index entry, and the reason why it has no owner."""

    key: str
    reason: str


async def orphans(redis: Redis) -> list[Orphan]:
    """The orphans that two scans find; a change in progress shows in one of them only."""
    first = await _scan(redis)
    return sorted(first & await _scan(redis)) if first else []


def known_key() -> re.Pattern[str]:
    """A pattern of the keys that the docstring of keys.py lists."""
    patterns = [
        "".join(
            ".+" if _PLACEHOLDER.fullmatch(part) else re.escape(part)
            for part in re.split(r"(<[^>]+>)", listed)
        )
        for listed in _LISTED.findall(keys.__doc__ or "")
    ]
    return re.compile("|".join(patterns))


async def _scan(redis: Any) -> set[Orphan]:
    names = [raw.decode() async for raw in redis.scan_iter("drmad:*", count=_SCAN_COUNT)]
    jobs = {raw.decode() for raw in await redis.zrange(keys.JOBS, 0, -1)}
    found = await _indices(redis, jobs)
    known, prefix = known_key(), keys.job("")
    owners = {prefix: jobs}
    for listed, key_prefix in _LISTS.items():
        owners[key_prefix] = {raw.decode() for raw in await redis.zrange(listed, 0, -1)}
    for name in names:
        if not known.fullmatch(name):
            found.add(Orphan(name, "not a key of this version of drmad"))
        elif await redis.ttl(name) != -1:
            continue  # expires
        elif name.startswith(_EXPIRING):
            found.add(Orphan(name, "has no expiry, although keys of its kind expire"))
        else:
            for key_prefix, ids in owners.items():
                owner = name.removeprefix(key_prefix).partition(":")[0]
                if name.startswith(key_prefix) and owner not in ids:
                    found.add(Orphan(name, f"{owner} does not exist"))
    return found


_LISTS = {keys.CODES: keys.code(""), keys.DATA: "drmad:data:", keys.KEYS: keys.key("")}
"""Sets that list the objects of one kind, and the prefix of the keys of these objects."""
_EXPIRING = tuple(f"drmad:{kind}:" for kind in ("idempotency", "bucket", "session", "ticket"))


async def _indices(redis: Any, jobs: set[str]) -> set[Orphan]:
    """Index entries that name no job, or a job whose state does not belong in the index."""
    found: set[Orphan] = set()
    statuses = await _statuses(redis, jobs)
    for job_id, status in statuses.items():
        if status is None:
            found.add(Orphan(f"{keys.JOBS} {job_id}", "the job does not exist"))
    members: dict[str, list[bytes]] = {
        keys.QUEUE: await redis.zrange(keys.QUEUE, 0, -1),
        keys.ENDED: await redis.zrange(keys.ENDED, 0, -1),
        keys.LEASES: await redis.zrange(keys.LEASES, 0, -1),
        keys.RESERVATIONS: await redis.hkeys(keys.RESERVATIONS),
        keys.PLACES: await redis.hkeys(keys.PLACES),
        keys.RESERVED_AT: await redis.hkeys(keys.RESERVED_AT),
    }
    for pattern in (keys.jobs_with("*"), "drmad:tenant:*"):
        async for raw in redis.scan_iter(pattern, count=_SCAN_COUNT):
            members[raw.decode()] = await redis.zrange(raw, 0, -1)
    runs = {raw.decode().partition(" ")[2] for raw in await redis.zrange(keys.RUNS, 0, -1)}
    for index, ids in members.items():
        for job_id in (raw.decode() for raw in ids):
            status = statuses.get(job_id)
            if index in (keys.RESERVATIONS, keys.PLACES, keys.RESERVED_AT) and job_id in runs:
                continue
            if status is None:
                found.add(Orphan(f"{index} {job_id}", "the job does not exist"))
            elif not _belongs(index, status):
                found.add(Orphan(f"{index} {job_id}", f"the job is {status}"))
    return found


def _belongs(index: str, status: str) -> bool:
    if index == keys.QUEUE:
        return status == "queued"
    if index == keys.ENDED:
        return status in ("succeeded", "failed", "cancelled")
    if index in (keys.LEASES, keys.RESERVATIONS, keys.PLACES, keys.RESERVED_AT):
        return status in DRIVEN
    return index.endswith((":jobs", f":jobs:{status}"))


async def _statuses(redis: Any, jobs: set[str]) -> dict[str, str | None]:
    ids = sorted(jobs)
    pipe = redis.pipeline(transaction=False)
    for job_id in ids:
        pipe.hget(keys.job(job_id), "status")
    found = await pipe.execute()
    return {i: raw.decode() if raw else None for i, raw in zip(ids, found, strict=True)}
