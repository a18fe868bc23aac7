"""The doctor finds faults, names the remedies, and prints no secret."""

from __future__ import annotations

import dataclasses
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from redis.asyncio import Redis

from drmad_client.cli.main import run
from drmad_service.operations.doctor import machine
from drmad_service.operations.doctor.command import Installation, examine
from drmad_service.operations.doctor.finding import Finding
from drmad_service.operations.doctor.ray_cluster import examine_ray
from drmad_service.operations.doctor.redis_server import examine_redis
from drmad_service.store import Capacity, Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.schema import agree

pytestmark = pytest.mark.anyio


def by_subject(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


async def test_healthy_redis_gives_no_error(redis: Redis, redis_url: str, store: Store) -> None:
    await agree(redis)
    await redis.config_set("maxmemory", 1 << 30)
    try:
        await store.claim("scheduler", 10.0, Capacity(4.0, 2.0))
        found = by_subject(await examine_redis(redis_url))
    finally:
        await redis.config_set("maxmemory", 0)
    assert {f.level for f in found.values() if f.subject != "Redis latency"} == {"ok"}
    assert found["schedulers"].message == "1, with 4 CPUs and 2 GPUs"


async def test_each_fault_of_redis_is_named_with_advice(redis: Redis, redis_url: str) -> None:
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    await redis.config_set("appendonly", "no")
    await redis.set(keys.SCHEMA, 99)
    await redis.set("drmad:job:job_gone:state", "{}")
    try:
        found = by_subject(await examine_redis(redis_url))
    finally:
        await redis.config_set("appendonly", "yes")
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.flushall()
    levels = {subject: finding.level for subject, finding in found.items()}
    assert levels["append-only file"] == levels["eviction"] == levels["schema"] == "error"
    assert levels["orphans"] == levels["schedulers"] == levels["memory of Redis"] == "warning"
    assert "drmad:job:job_gone:state" in found["orphans"].message
    assert all(f.advice for f in found.values() if f.level != "ok")


async def test_password_stays_secret() -> None:
    (finding,) = await examine_redis("redis://drmad:s3cr3t-password@127.0.0.1:1/0")
    assert finding.level == "error"
    assert finding.advice
    assert "s3cr3t" not in f"{finding}"


async def test_wrong_password_is_distinguished_from_no_server(redis: Redis, redis_url: str) -> None:
    await redis.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "doctor", "on", ">right", "~drmad:*", "+@all", "-info"
    )
    path = redis_url.rpartition("@")[2]
    (wrong,) = await examine_redis(f"unix://doctor:wrong@{path}")
    assert "DRMAD_REDIS_URL" in wrong.advice
    (forbidden,) = await examine_redis(f"unix://doctor:right@{path}")
    assert "+info" in forbidden.advice
    await redis.execute_command("ACL", "DELUSER", "doctor")  # type: ignore[no-untyped-call]


def test_port_is_free_or_taken_by_another() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        number = other.getsockname()[1]
        other.listen()
        other.settimeout(0)
        assert machine.port(number).level == "error"
    assert machine.port(number).level == "ok"


def test_data_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    good, bad = machine.data_roots([tmp_path, tmp_path / "none"])
    assert (good.level, bad.level) == ("ok", "error")


def test_key_that_others_can_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x" * 40)
    (tmp_path / "key").chmod(0o644)
    found = by_subject(machine.local_key_mode(tmp_path))
    assert found["local key"].advice == f"chmod 600 {tmp_path / 'key'}"


@pytest.mark.parametrize(
    ("code", "out", "err", "level", "said"),
    [
        (0, '{"nodes": 2, "CPU": 8.0, "GPU": 1.0}\n', "", "ok", "2 nodes, 8 CPUs, 1 GPUs"),
        (0, '{"nodes": 1}\n', "", "warning", "start workers"),
        (1, "", "RuntimeError: Version mismatch: Ray: 2.50", "error", "versions of Ray"),
        (1, "", "ConnectionError: no", "error", "token"),
    ],
)
def test_ray_is_asked_in_a_process_of_its_own(
    code: int, out: str, err: str, level: str, said: str
) -> None:
    def answer(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, out, err)

    finding = [*examine_ray("head:6381", answer)][-1]
    assert finding.level == level
    assert said in f"{finding.message} {finding.advice}"


def test_ray_that_does_not_answer_is_given_up() -> None:
    def silent(*_: Any, **__: Any) -> NoReturn:
        raise subprocess.TimeoutExpired("ray", 1.0)

    assert [*examine_ray("head:6381", silent)][-1].level == "error"


def test_command_prints_json_and_exits_with_1_on_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["doctor", "--home", str(tmp_path), "--json"]
    unreachable = ["--redis-url", "redis://127.0.0.1:1/0"]
    assert run([*arguments, *unreachable]) == 1
    printed = capsys.readouterr()
    found = {finding["subject"]: finding for finding in json.loads(printed.out)}
    assert found["Redis"]["level"] == "error"
    assert found["python"]["message"] == ".".join(map(str, sys.version_info[:3]))
    assert "need to be fixed" in printed.err


def test_a_container_of_the_scheduler_is_sound_without_what_lies_elsewhere(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Ray and its Redis are elsewhere: a small /tmp and missing data roots are no faults."""
    monkeypatch.setattr(machine, "MIN_DISK_BYTES", 1 << 60)
    monkeypatch.setattr(machine, "MIN_SHARED_MEMORY_BYTES", 1 << 60)
    elsewhere = Installation(tmp_path, redis_url, data_roots=(tmp_path / "on_the_workers",))
    joined = dataclasses.replace(elsewhere, ray_address="ray-head:6381")
    early = list(itertools.takewhile(lambda found: found.subject != "Redis", examine(joined)))
    assert [found for found in early if found.level == "error"] == []
    assert "on the workers" in by_subject(early)["data root"].message
    with socket.create_server(("127.0.0.1", 0)) as driver:
        address = f"127.0.0.1:{driver.getsockname()[1]}"
        driven = by_subject(examine(dataclasses.replace(elsewhere, ray_driver=address)))
    assert not {"disk of Ray", "shared memory", "Ray"} & set(driven)
    assert (driven["data root"].level, driven["Ray's driver"].level) == ("ok", "ok")
    silent = by_subject(examine(dataclasses.replace(elsewhere, ray_driver=address)))
    assert silent["Ray's driver"].level == "error"
    assert "drmad ray-driver" in silent["Ray's driver"].advice
    alone = Installation(home=tmp_path, redis_url="", data_roots=(tmp_path / "none",))
    wrong = {found.subject for found in examine(alone) if found.level == "error"}
    assert wrong >= {"disk of the home", "disk of Ray", "shared memory", "data root"}
