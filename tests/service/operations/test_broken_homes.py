"""`drmad up` whose files are deleted or whose Redis hangs: noticed, never doubled, always ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from drmad_service.operations.embedded import EmbeddedRedis
from tests.service.operations.test_up import free_port, up

WAIT_S = 300.0
STUCK = {"DRMAD_RAY_DRIVER": "127.0.0.1:9"}
"""A scheduler that finds no Ray: the tests need none."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def service(home: Path) -> Iterator[subprocess.Popen[str]]:
    port = str(free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "drmad_client", "up", "--port", port, "--no-browser"],
        env=os.environ | {"DRMAD_HOME": str(home)} | STUCK,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "drmad is at" in process.stdout.readline()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate()
        EmbeddedRedis(home).stop()


def redis_pid(home: Path) -> int:
    with Redis.from_url(EmbeddedRedis(home).url, socket_timeout=5.0) as redis:
        found: int = redis.info("server")["process_id"]
        return found


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            if holds():
                return
        except RedisError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_deleted_socket_is_noticed_and_made_again(
    service: subprocess.Popen[str], home: Path
) -> None:
    before = redis_pid(home)
    (home / "redis" / "redis.sock").unlink()
    until(lambda: redis_pid(home) != before)


def test_a_second_up_is_refused_although_the_lock_files_were_deleted(
    service: subprocess.Popen[str], home: Path
) -> None:
    before = redis_pid(home)
    (home / "lock").unlink()
    (home / "redis" / "lock").unlink()
    refused = up(home, free_port(), **STUCK)
    assert refused.returncode == 1
    assert f"another drmad up uses the home {home}" in refused.stderr
    assert redis_pid(home) == before


def test_a_deleted_home_ends_the_service_with_the_reason(
    service: subprocess.Popen[str], home: Path
) -> None:
    shutil.rmtree(home, ignore_errors=True)
    service.wait(WAIT_S)
    assert service.returncode == 1
    assert service.stderr is not None
    assert "was deleted or replaced while drmad ran in it" in service.stderr.read()


@pytest.mark.parametrize("fault", ["Redis hangs", "no socket", "API hangs"])
def test_an_interrupt_ends_the_service_whatever_is_broken(
    service: subprocess.Popen[str], home: Path, fault: str
) -> None:
    redis = redis_pid(home)
    if fault == "Redis hangs":
        os.kill(redis, signal.SIGSTOP)
    elif fault == "no socket":
        os.kill(redis, signal.SIGSTOP)
        (home / "redis" / "redis.sock").unlink()
    else:
        children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        (api,) = (
            pid for pid in children if b"\0serve\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(int(api), signal.SIGSTOP)
    service.send_signal(signal.SIGINT)
    assert service.wait(WAIT_S) == 0
    assert not EmbeddedRedis(home).is_running()
    assert not Path(f"/proc/{redis}").exists()
