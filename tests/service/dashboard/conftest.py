"""Starts a browser, the API and a store with jobs in every state for the tests of the dashboard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Page, expect
from redis import Redis

from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from drmad_service.store.layout import keys
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do

T = TypeVar("T")

# A shared machine may be slow; test_opening_times.py alone measures times.
expect.set_options(timeout=60_000)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def do(redis_url: str) -> Iterator[Do[Any]]:
    """Runs a coroutine on the store, in a thread: Playwright holds the event loop of this one."""

    async def connected(what: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        async with connect(redis_url) as redis:
            return await what(Store(redis))

    with ThreadPoolExecutor(1) as thread:
        yield lambda what: thread.submit(lambda: asyncio.run(connected(what))).result()


@pytest.fixture(scope="module")
def jobs(redis_url: str, do: Do[Any]) -> dict[str, str]:
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    ids: dict[str, str] = do(gallery.gallery)
    do(gallery.used)
    do(lambda store: store.report_nodes("scheduler_1", gallery.nodes()))
    # No scheduler renews its announcement during the tests, so it is dated one hour ahead.
    with Redis.from_url(redis_url) as redis:
        announced = json.loads(redis.hget(keys.CLUSTER, "scheduler_gallery") or b"{}")
        announced["at"] += 3_600_000
        redis.hset(keys.CLUSTER, "scheduler_gallery", json.dumps(announced))
    return ids


@pytest.fixture(scope="module")
def server(
    redis_url: str, jobs: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = Server(redis_url, data_dir=tmp_path_factory.mktemp("data"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def trouble() -> Iterator[Trouble]:
    trouble = Trouble()
    yield trouble
    assert trouble.found == []


@pytest.fixture
def page(browser: Browser, trouble: Trouble) -> Iterator[Page]:
    with browsers.window(browser, trouble) as (_, page):
        yield page
