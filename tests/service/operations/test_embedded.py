"""The Redis of a home answers to its password alone, also one that an earlier release started."""

from __future__ import annotations

import stat
import subprocess
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
