"""What every test may use: a real Redis, and which event loop async tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from drmad_service.operations.embedded import EmbeddedRedis


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts a whole service takes longest, and comes first."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)


class OneServiceAtATime(LoadScopeScheduling):  # type: ignore[misc]
    """On two cores, all tests that start a whole service run on one of them.

    Two services at once would starve each other. The tests of any other file stay together, for
    the fixtures that they share. (pytest-xdist's own groups change what a test is called, which
    pytest 9 no longer respects.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "end_to_end" if "/end_to_end/" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneServiceAtATime:
    return OneServiceAtATime(config, log)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a socket, one for the whole run; whoever uses it empties it first."""
    redis = EmbeddedRedis(Path(tmp_path_factory.mktemp("redis")))
    redis.start()
    yield redis.url
    redis.stop()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
