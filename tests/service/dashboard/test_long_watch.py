"""A page that stays open on a running job keeps its memory, and leaves the browser free."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession, Page, expect

from drmad_service.store import Lease, Store
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do, settled

KEPT = 300
"""Meta-iterations before the page opens."""
MOST = 100_000
PAGE_NODES = 2_000
"""A page has about a thousand nodes, and one that was fetched for a merge may be there beside it;
a leak would keep one for each of the meta-iterations."""


class Watched:
    """A running job whose page is open with all charts in view."""

    def __init__(self, page: Page, server: Server, do: Do[Any]) -> None:
        self._page, self._do = page, do
        self._done = KEPT

        async def started(store: Store) -> Lease:
            lease = await gallery.running(store, gallery.spec("long", MOST, priority=99))
            await gallery.commit(store, lease, range(KEPT), MOST)
            return lease

        self._lease: Lease = do(started)
        self._devtools: CDPSession = page.context.new_cdp_session(page)
        self._devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(f"{server.url}/jobs/{self._lease.job_id}")
        settled(page)

    def advance(self, meta_iterations: int) -> None:
        """Commits one after the other; each has to arrive on the page."""
        for _ in range(meta_iterations):
            number = self._done

            async def commit(store: Store, number: int = number) -> None:
                await gallery.commit(store, self._lease, range(number, number + 1), MOST)

            self._do(commit)
            self._done += 1
            expect(self._page.locator("#iteration")).to_have_text(str(self._done))

    def kept(self) -> tuple[float, float]:
        """Megabytes of the page's objects, and its nodes, after garbage was collected."""
        for _ in range(3):
            self._devtools.send("HeapProfiler.collectGarbage")
        found = self._metrics()
        return found["JSHeapUsedSize"] / 1e6, found["Nodes"]

    def busy_s(self) -> float:
        """Seconds of the processor that the page's main thread took so far."""
        return self._metrics()["TaskDuration"]

    def end(self) -> None:
        async def cancel(store: Store) -> None:
            await store.cancel(self._lease.job_id)

        self._do(cancel)

    def _metrics(self) -> dict[str, float]:
        answer = self._devtools.send("Performance.getMetrics")
        return {each["name"]: each["value"] for each in answer["metrics"]}


def watch(
    browser: Browser, server: Server, do: Do[Any], goes_on: Callable[[int], bool], each: int
) -> list[tuple[float, float]]:
    """What the page keeps after each round of `each` meta-iterations."""
    trouble = Trouble()
    kept: list[tuple[float, float]] = []
    with browsers.window(browser, trouble, width=1440, height=5000) as (_, page):
        watched = Watched(page, server, do)
        watched.advance(each)  # until everything was drawn again once
        while goes_on(len(kept)):
            watched.advance(each)
            kept.append(watched.kept())
        watched.end()
    megabytes, nodes = zip(*kept, strict=True)
    print(f"{len(kept)} rounds: MB {megabytes[0]:.1f} to {megabytes[-1]:.1f}, nodes {nodes}")
    assert trouble.found == []
    return kept


@pytest.mark.full
def test_a_page_that_follows_a_job_keeps_its_memory(
    browser: Browser, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    kept = watch(browser, server, do, lambda rounds: rounds < 3, each=12)
    megabytes, nodes = zip(*kept, strict=True)
    assert megabytes[-1] < megabytes[0] + 4, megabytes
    assert nodes[-1] < nodes[0] + PAGE_NODES, nodes


def test_the_main_thread_is_free_while_a_job_iterates(
    browser: Browser, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    trouble = Trouble()
    with browsers.window(browser, trouble, width=1440, height=5000) as (_, page):
        watched = Watched(page, server, do)
        began, busy = time.monotonic(), watched.busy_s()
        watched.advance(15)
        share = (watched.busy_s() - busy) / (time.monotonic() - began)
        watched.end()
    assert trouble.found == []
    # Merges and charts each rest ten times as long as they take.
    print(f"main thread: {share:.1%}")
    assert share < 0.5


@pytest.mark.full
def test_a_page_that_is_open_for_an_hour_keeps_its_memory(
    browser: Browser, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    until = time.monotonic() + 3600
    kept = watch(browser, server, do, lambda _: time.monotonic() < until, each=50)
    megabytes, nodes = zip(*kept, strict=True)
    assert megabytes[-1] < min(megabytes) + 6
    assert nodes[-1] < min(nodes) + PAGE_NODES
