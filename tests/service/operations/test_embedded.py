"""The Redis of a home answers to its password alone, also one that an earlier release started."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from drmad_service.operations.embedded import EmbeddedRedis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    running = EmbeddedRedis(tmp_path)
    running.start()
    yield running
    running.stop()


def socket_of(server: EmbeddedRedis) -> str:
    return server.url.rpartition("@")[2]


def must_refuse_strangers(server: EmbeddedRedis) -> None:
    with (
        Redis(unix_socket_path=socket_of(server)) as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.ping()


def test_the_socket_without_the_password_answers_nothing(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    must_refuse_strangers(server)
    with Redis.from_url(server.url) as owner:
        assert owner.ping()
    password = server.url.partition("//:")[2].partition("@")[0]
    assert len(password) == 64
    assert stat.S_IMODE((tmp_path / "redis" / "password").stat().st_mode) == 0o600
    commands = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True).stdout
    assert socket_of(server) in commands
    assert password not in commands


def test_an_adopted_server_without_a_password_gets_one(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    with Redis.from_url(server.url) as owner:
        owner.set("kept", "value")
        owner.config_set("requirepass", "")  # as an earlier release started it
    EmbeddedRedis(tmp_path).start()
    must_refuse_strangers(server)
    with Redis.from_url(server.url) as owner:
        assert owner.get("kept") == b"value"


def test_the_password_stays_from_start_to_start(server: EmbeddedRedis, tmp_path: Path) -> None:
    before = server.url
    server.stop()
    server.start()
    assert server.url == before == EmbeddedRedis(tmp_path).url


def test_a_server_whose_lock_file_was_deleted_is_not_started_twice(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    (tmp_path / "redis" / "lock").unlink()
    other = EmbeddedRedis(tmp_path)
    assert other.is_running()
    other.start()
    with Redis.from_url(server.url) as one, Redis.from_url(other.url) as same:
        one.set("k", "v")
        assert same.get("k") == b"v"
        assert one.info("server")["process_id"] == same.info("server")["process_id"]


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("fault", ["no socket", "stopped"])
def test_a_broken_server_ends_all_the_same_and_keeps_its_data(
    server: EmbeddedRedis, tmp_path: Path, fault: str, adopted: bool
) -> None:
    with Redis.from_url(server.url) as redis:
        redis.set("kept", "value")
        pid = redis.info("server")["process_id"]
    if fault == "stopped":
        os.kill(pid, signal.SIGSTOP)
    else:
        Path(socket_of(server)).unlink()
        assert not server.is_reachable()
    stopped = EmbeddedRedis(tmp_path) if adopted else server
    reaper = threading.Thread(target=server._process.wait) if server._process else None
    if reaper is not None and adopted:  # its parent would have ended too
        reaper.start()
    stopped.stop()
    assert not stopped.is_running()
    server.start()
    with Redis.from_url(server.url) as redis:
        assert redis.get("kept") == b"value"
        assert redis.info("server")["process_id"] != pid


def test_a_start_ends_when_the_service_is_to_stop(server: EmbeddedRedis, tmp_path: Path) -> None:
    with Redis.from_url(server.url) as redis:
        pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    stopping = threading.Event()
    stopping.set()
    EmbeddedRedis(tmp_path).start(stopping)
    os.kill(pid, signal.SIGCONT)
