"""What `drmad doctor` looks at, and what it advises."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

import httpx
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from drmad_client import __version__
from drmad_client.http import local_key
from drmad_service.operations.orphans import orphans
from drmad_service.store import Store, keys, schema
from drmad_service.store.base import FULL
from drmad_service.store.connection import connect

Level = Literal["ok", "warning", "error"]

OLDEST_REDIS = (6, 2)
SLOW_S = 0.02
"""A Redis that takes so long for a ping slows down every meta-iteration."""
LITTLE_DISK = 2 << 30
LITTLE_SHARED_MEMORY = 256 << 20
RAY_S = 60.0


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it stands, and what to do about it."""

    subject: str
    level: Level
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Suspects:
    """Where to look."""

    home: Path
    redis_url: str
    ray_address: str = "local"
    port: int | None = None
    data_roots: tuple[Path, ...] = ()


def examine(suspects: Suspects) -> Iterator[Finding]:
    """Look at everything, what is quick first."""
    yield from versions()
    yield from disk(suspects.home)
    yield from data_roots(suspects.data_roots)
    if suspects.port is not None:
        yield port(suspects.port)
    yield from asyncio.run(redis(suspects.redis_url))
    yield from ray(suspects.ray_address)


def versions() -> Iterator[Finding]:
    """Of Python and of what the service stands on."""
    yield Finding("python", "ok", platform.python_version())
    yield Finding("drmad", "ok", __version__)
    for name, extra in (("ray", "service"), ("redis", "service"), ("torch", "workers")):
        try:
            yield Finding(name, "ok", installed(name))
        except PackageNotFoundError:
            advice = f"needed on {'workers' if name == 'torch' else 'schedulers'}: "
            yield Finding(
                name, "warning", "not installed", advice + f'pip install "drmad[{extra}]"'
            )


def disk(home: Path) -> Iterator[Finding]:
    """Space for the append-only file, for Ray's files and for its objects."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    for subject, folder, least, advice in (
        ("disk of the home", there, LITTLE_DISK, "make room, or choose another --home"),
        ("disk of Ray", Path("/tmp"), LITTLE_DISK, "make room: Ray spills objects there"),
        ("shared memory", Path("/dev/shm"), LITTLE_SHARED_MEMORY, "in a container: raise shm_size"),
    ):
        if folder.exists():
            free = shutil.disk_usage(folder).free
            told = f"{free / 2**30:.1f} GiB free in {folder}"
            level: Level = "ok" if free >= least else "error"
            yield Finding(subject, level, told, "" if level == "ok" else advice)
    if (key := local_key.path(home)).exists() and key.stat().st_mode & 0o077:
        yield Finding("local key", "error", f"others can read {key}", f"chmod 600 {key}")


def data_roots(roots: Iterable[Path]) -> Iterator[Finding]:
    """On this machine; the workers' own are theirs."""
    for root in roots:
        if not root.is_dir():
            yield Finding("data root", "error", f"{root} is no folder", "make it, or leave it out")
        elif not os.access(root, os.R_OK | os.X_OK):
            yield Finding("data root", "error", f"{root} cannot be read", f"chmod o+rx {root}")
        else:
            yield Finding("data root", "ok", str(root))


def port(number: int) -> Finding:
    """Whether it is free, or ours."""
    subject = f"port {number}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            pass
        else:
            return Finding(subject, "ok", "free")
    try:
        answer = httpx.get(f"http://127.0.0.1:{number}/readyz", timeout=5.0)
        told = answer.json()
    except (httpx.HTTPError, ValueError):
        told = None
    if isinstance(told, dict) and told.get("status") == "ready":
        return Finding(subject, "ok", "drmad answers there")
    if isinstance(told, dict) and "code" in told:
        return Finding(subject, "error", f"drmad is not ready: {told.get('detail')}")
    return Finding(subject, "error", "taken by another program", "choose another --port")


async def redis(url: str) -> list[Finding]:
    """Reachable, safe to keep jobs in, with room, of our version, and tidy."""
    if not url:
        advice = "start drmad up, or give --redis-url"
        return [Finding("Redis", "warning", "none runs in the home", advice)]
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
        told = f"{type(error).__name__}: {_without_password(str(error), url)}"
        return [Finding("Redis", "error", told, "is it running, and is DRMAD_REDIS_URL right?")]


def _server(info: dict[str, Any], ping_s: float) -> Iterator[Finding]:
    name = info.get("server_name", "redis")
    told = str(info.get("valkey_version", info["redis_version"]))
    numbers = tuple(int(part) for part in re.findall(r"\d+", info["redis_version"])[:2])
    if numbers < OLDEST_REDIS:
        yield Finding("Redis", "error", f"{name} {told}", "version 6.2 or newer is needed")
    else:
        yield Finding("Redis", "ok", f"{name} {told}")
    if ping_s > SLOW_S:
        advice = "bring it nearer, or look for what keeps it busy: SLOWLOG GET"
        yield Finding("Redis latency", "warning", f"{ping_s * 1000:.0f} ms for a ping", advice)
    else:
        yield Finding("Redis latency", "ok", f"{ping_s * 1000:.1f} ms for a ping")
    if not info["aof_enabled"]:
        advice = "CONFIG SET appendonly yes, and in its configuration"
        yield Finding("append-only file", "error", "off: a restart loses jobs", advice)
    elif info.get("aof_last_write_status", "ok") != "ok":
        advice = "look at the disk and at the log of Redis"
        yield Finding("append-only file", "error", "the last write failed", advice)
    else:
        yield Finding("append-only file", "ok", "on")
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        advice = "CONFIG SET maxmemory-policy noeviction, and in its configuration"
        yield Finding("eviction", "error", f"{policy}: jobs would vanish", advice)
    else:
        yield Finding("eviction", "ok", policy)
    used, budget = info["used_memory"], info["maxmemory"]
    told = f"{used >> 20} of {budget >> 20} MiB" if budget else f"{used >> 20} MiB, no limit"
    if not budget:
        advice = "set maxmemory: then new jobs are refused before the machine is full"
        yield Finding("memory of Redis", "warning", told, advice)
    elif used > FULL * budget:
        advice = "delete jobs that have ended, shorten --keep-ended-s, or raise maxmemory"
        yield Finding("memory of Redis", "error", told, advice)
    else:
        yield Finding("memory of Redis", "ok", told)


async def _data(client: Redis) -> list[Finding]:
    found: list[Finding] = []
    raw: bytes | None = await client.get(keys.SCHEMA)  # type: ignore[assignment]
    told = raw.decode() if raw else "none yet"
    if raw and told != str(schema.SCHEMA):
        advice = f"this drmad works with schema {schema.SCHEMA}; run one version everywhere"
        found.append(Finding("schema", "error", told, advice))
    else:
        found.append(Finding("schema", "ok", told))
    lost = await orphans(client)
    if lost:
        shown = "; ".join(f"{orphan.key}: {orphan.reason}" for orphan in lost[:3])
        advice = "harmless but for the memory; please report how they came about"
        found.append(
            Finding("orphans", "warning", f"{len(lost)} belong to nothing: {shown}", advice)
        )
    else:
        found.append(Finding("orphans", "ok", "every key belongs to something"))
    cluster = await Store(client).cluster()
    if not cluster.schedulers:
        advice = "start one: drmad schedule (drmad up does)"
        found.append(Finding("schedulers", "warning", "none looks at the queue", advice))
    else:
        told = f"{cluster.schedulers}, with {cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs"
        found.append(Finding("schedulers", "ok", told))
    return found


def _without_password(text: str, url: str) -> str:
    secret = re.search(r"//[^/@]*:([^/@]+)@", url)
    return text.replace(secret.group(1), "***") if secret else text


_ASK_RAY = """
import json, logging, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
nodes = [node for node in ray.nodes() if node["Alive"]]
print(json.dumps({"nodes": len(nodes), **ray.cluster_resources()}))
"""


def ray(address: str, run: Callable[..., Any] = subprocess.run) -> Iterator[Finding]:
    """Asked in a process of its own, which Ray may keep waiting or end."""
    if address == "local":
        yield Finding("Ray", "ok", "drmad schedule starts one on this machine")
        return
    if os.environ.get("RAY_AUTH_MODE") != "token":
        advice = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN on every node and scheduler"
        yield Finding("Ray's authentication", "warning", "off: who reaches it runs code", advice)
    command: Sequence[str] = [sys.executable, "-c", _ASK_RAY, address]
    try:
        asked = run(command, capture_output=True, text=True, timeout=RAY_S, check=False)
    except subprocess.TimeoutExpired:
        advice = "is the address right, the token the same, and a Ray node on this machine?"
        yield Finding("Ray", "error", f"{address} did not answer within {RAY_S:g} s", advice)
        return
    if asked.returncode == 0:
        told = json.loads(asked.stdout.splitlines()[-1])
        yield Finding(
            "Ray",
            "ok" if told.get("CPU") else "warning",
            f"{told['nodes']} nodes, {told.get('CPU', 0):g} CPUs, {told.get('GPU', 0):g} GPUs",
            "" if told.get("CPU") else "no node offers CPUs to jobs: start workers",
        )
        return
    last = (asked.stderr.strip().splitlines() or ["no message"])[-1]
    if "Version mismatch" in asked.stderr:
        yield Finding("Ray", "error", last, "install the cluster's versions of Ray and Python here")
    else:
        advice = "is the address right, the token the same, and a Ray node on this machine?"
        yield Finding("Ray", "error", last, advice)
