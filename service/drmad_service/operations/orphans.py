"""Finds what in Redis belongs to nothing: keys and entries of indices that nobody would delete."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from drmad_service.store import keys
from drmad_service.store.state_machine import DRIVEN

_LISTED = re.compile(r"^ {4}(drmad:\S+) ", re.MULTILINE)
_PLACEHOLDER = re.compile(r"<[^>]+>")
_SCAN = 1000


@dataclass(frozen=True, order=True)
class Orphan:
    """A key, or an entry of one, and why nothing owns it."""

    key: str
    reason: str


async def orphans(redis: Redis) -> list[Orphan]:
    """What belongs to nothing, seen twice: what was on its way at the first look is not told."""
    first = await _look(redis)
    return sorted(first & await _look(redis)) if first else []


def known_key() -> re.Pattern[str]:
    """Matches the keys that the docstring of keys.py lists."""
    patterns = [
        "".join(
            ".+" if _PLACEHOLDER.fullmatch(part) else re.escape(part)
            for part in re.split(r"(<[^>]+>)", listed)
        )
        for listed in _LISTED.findall(keys.__doc__ or "")
    ]
    return re.compile("|".join(patterns))


async def _look(redis: Any) -> set[Orphan]:
    names = [raw.decode() async for raw in redis.scan_iter("drmad:*", count=_SCAN)]
    jobs = {raw.decode() for raw in await redis.zrange(keys.JOBS, 0, -1)}
    found = await _indices(redis, jobs)
    known, prefix = known_key(), keys.job("")
    owners = {prefix: jobs}
    for listed, of in _LISTS.items():
        owners[of] = {raw.decode() for raw in await redis.zrange(listed, 0, -1)}
    for name in names:
        if not known.fullmatch(name):
            found.add(Orphan(name, "no key of this version of drmad"))
        elif await redis.ttl(name) != -1:
            continue  # goes by itself
        elif name.startswith(_PASSING):
            found.add(Orphan(name, "should expire and does not"))
        else:
            for of, ids in owners.items():
                owner = name.removeprefix(of).partition(":")[0]
                if name.startswith(of) and owner not in ids:
                    found.add(Orphan(name, f"{owner} does not exist"))
    return found


_LISTS = {keys.CODES: keys.code(""), keys.DATA: "drmad:data:", keys.KEYS: keys.key("")}
"""What is listed in a set of its own, and how the keys of each begin."""
_PASSING = tuple(f"drmad:{kind}:" for kind in ("idempotency", "bucket", "session", "ticket"))


async def _indices(redis: Any, jobs: set[str]) -> set[Orphan]:
    """Entries that name no job, or one whose state does not put it there."""
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
    }
    for pattern in (keys.jobs_with("*"), "drmad:tenant:*"):
        async for raw in redis.scan_iter(pattern, count=_SCAN):
            members[raw.decode()] = await redis.zrange(raw, 0, -1)
    for index, ids in members.items():
        for job_id in (raw.decode() for raw in ids):
            status = statuses.get(job_id)
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
    if index in (keys.LEASES, keys.RESERVATIONS):
        return status in DRIVEN
    return index.endswith((":jobs", f":jobs:{status}"))


async def _statuses(redis: Any, jobs: set[str]) -> dict[str, str | None]:
    ids = sorted(jobs)
    pipe = redis.pipeline(transaction=False)
    for job_id in ids:
        pipe.hget(keys.job(job_id), "status")
    found = await pipe.execute()
    return {i: raw.decode() if raw else None for i, raw in zip(ids, found, strict=True)}
