"""What every test may use: a real Redis, and which event loop async tests run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from drmad_service.operations.embedded import EmbeddedRedis
from tests.s3 import S3, s3_server

# One thread, also in the processes that tests start: figures repeat, and tests do not fight for
# cores. It is set before torch is loaded. And Ray would lower the priority of its workers, which
# would hardly run beside other tests.
os.environ.update({"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"})

COMMON_SERVICE = "end_to_end"
OWN_SERVICE = ("lifecycle", "faults", "up", "composed", "schedulers", "cluster", "upgrade")
"""Files of end_to_end whose tests start a service of their own; those that take longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the common service take longest, and come first; then those with their own."""
    order = [COMMON_SERVICE, *(f"tests/end_to_end/test_{name}.py" for name in OWN_SERVICE)]
    rank = {scope: number for number, scope in enumerate(order)}
    items.sort(key=lambda item: rank.get(_scope(item.nodeid), len(rank)))


def _scope(nodeid: str) -> str:
    """The tests of a file stay together, for the fixtures that they share."""
    file = nodeid.partition("::")[0]
    own = file.endswith(tuple(f"/test_{name}.py" for name in OWN_SERVICE))
    return COMMON_SERVICE if "end_to_end/" in file and not own else file


class ServicesOnOneWorker(LoadScopeScheduling):  # type: ignore[misc]
    """The first worker takes the tests that start a service first, and every other worker last.

    So two services run at once only when nothing else is left, and no worker is ever idle.
    (pytest-xdist's own groups change what a test is called, which pytest 9 no longer respects.)
    """

    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        is_first = node is self.nodes[0]
        suited = (scope for scope in self.workqueue if ("end_to_end" in scope) == is_first)
        if scope := next(suited, None):
            self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ServicesOnOneWorker:
    return ServicesOnOneWorker(config, log)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a socket, one for the whole run; whoever uses it empties it first."""
    redis = EmbeddedRedis(Path(tmp_path_factory.mktemp("redis")))
    redis.start()
    yield redis.url
    redis.stop()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A real S3 server on loopback, one for the whole run; every test has a bucket of its own."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
