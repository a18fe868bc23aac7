"""Examines Redis: the connection, its configuration and memory, and the data in it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from drmad_service.operations.doctor.finding import Finding
from drmad_service.operations.orphans import orphans
from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from drmad_service.store.base import FULL
from drmad_service.store.layout import keys, schema

OLDEST_VERSION = (6, 2)
SLOW_PING_S = 0.02
"""A Redis that answers a ping later slows down every meta-iteration."""


async def examine_redis(url: str) -> list[Finding]:
    """Findings on the server and its data, or one on why it cannot be reached."""
    if not url:
        advice = "start it with `drmad up`, or pass --redis-url"
        return [Finding("Redis", "warning", "no Redis runs in the home", advice)]
    try:
        async with connect(url) as client:
            began = time.monotonic()
            await client.ping()
            seconds = time.monotonic() - began
            return [*_server(await client.info(), seconds), *await _data(client)]
    except NoPermissionError as error:
        return [Finding("Redis", "error", str(error), "its ACL must allow +info and ~drmad:*")]
    except AuthenticationError as error:
        advice = "put the user and the password into DRMAD_REDIS_URL: redis://user:password@host"
        return [Finding("Redis", "error", str(error), advice)]
    except (RedisError, ValueError, OSError) as error:
        # Never the URL itself: it holds the password.
        message = f"{type(error).__name__}: {_without_password(str(error), url)}"
        advice = "check that Redis runs and that DRMAD_REDIS_URL is its address"
        return [Finding("Redis", "error", message, advice)]


def _server(info: dict[str, Any], ping_s: float) -> Iterator[Finding]:
    name = info.get("server_name", "redis")
    version = f"{name} {info.get('valkey_version', info['redis_version'])}"
    numbers = tuple(int(part) for part in re.findall(r"\d+", info["redis_version"])[:2])
    if numbers < OLDEST_VERSION:
        yield Finding("Redis", "error", version, "upgrade Redis to version 6.2 or newer")
    else:
        yield Finding("Redis", "ok", version)
    if ping_s > SLOW_PING_S:
        advice = "move Redis closer, or find the commands that keep it busy with SLOWLOG GET"
        yield Finding("Redis latency", "warning", f"{ping_s * 1000:.0f} ms for a ping", advice)
    else:
        yield Finding("Redis latency", "ok", f"{ping_s * 1000:.1f} ms for a ping")
    yield _append_only_file(info)
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        advice = "CONFIG SET maxmemory-policy noeviction, and in its configuration file"
        yield Finding("eviction", "error", f"{policy}: Redis would delete jobs", advice)
    else:
        yield Finding("eviction", "ok", policy)
    yield _memory(info["used_memory"], info["maxmemory"])


def _append_only_file(info: dict[str, Any]) -> Finding:
    subject = "append-only file"
    if not info["aof_enabled"]:
        advice = "CONFIG SET appendonly yes, and in its configuration file"
        return Finding(subject, "error", "off: a restart of Redis loses jobs", advice)
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding(
            subject, "error", "the last write failed", "check the disk and Redis's own log"
        )
    return Finding(subject, "ok", "on")


def _memory(used: int, limit: int) -> Finding:
    subject = "memory of Redis"
    if not limit:
        advice = "set maxmemory: the service then refuses new jobs before memory runs out"
        return Finding(subject, "warning", f"{used >> 20} MiB, no limit", advice)
    message = f"{used >> 20} of {limit >> 20} MiB"
    if used > FULL * limit:
        advice = "delete jobs that have ended, lower --keep-ended-s, or raise maxmemory"
        return Finding(subject, "error", message, advice)
    return Finding(subject, "ok", message)


async def _data(client: Redis) -> list[Finding]:
    found: list[Finding] = []
    raw: bytes | None = await client.get(keys.SCHEMA)  # type: ignore[assignment]
    version = raw.decode() if raw else "none yet"
    if raw and version != str(schema.SCHEMA):
        advice = f"this drmad uses schema {schema.SCHEMA}; run the same version in every process"
        found.append(Finding("schema", "error", version, advice))
    else:
        found.append(Finding("schema", "ok", version))
    lost = await orphans(client)
    if lost:
        shown = "; ".join(f"{orphan.key}: {orphan.reason}" for orphan in lost[:3])
        message = f"{len(lost)} keys or index entries have no owner: {shown}"
        advice = "they only take up memory; please report how they came about"
        found.append(Finding("orphans", "warning", message, advice))
    else:
        found.append(Finding("orphans", "ok", "every key and index entry has an owner"))
    cluster = await Store(client).cluster()
    if not cluster.schedulers:
        advice = "start one with `drmad schedule` (`drmad up` runs one)"
        found.append(Finding("schedulers", "warning", "no scheduler polls the queue", advice))
    else:
        message = f"{cluster.schedulers}, with {cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs"
        found.append(Finding("schedulers", "ok", message))
    return found


def _without_password(text: str, url: str) -> str:
    secret = re.search(r"//[^/@]*:([^/@]+)@", url)
    return text.replace(secret.group(1), "***") if secret else text
