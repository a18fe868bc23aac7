"""What every test may use: a real Redis, and which event loop async tests run on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from drmad_service.embedded import EmbeddedRedis


@pytest.hookimpl(wrapper=True)  # before pytest-xdist, which reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Where tests run on two cores, all that start a whole service run on one of them, first.

    Two services at once would starve each other. The tests of any other file stay together, for
    the fixtures that they share.
    """
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)
    for item in items:
        whole = "end_to_end" in item.path.parts
        item.add_marker(pytest.mark.xdist_group("end_to_end" if whole else item.path.stem))
    return (yield)


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
