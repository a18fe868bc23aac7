"""Tests how fast pages with many jobs, meta-iterations and hyperparameters open."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from drmad_service.store import Store
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do, settled

QUICK_S = 1.5
MOST_OPENINGS = 8
MOST_BYTES = 2_000_000


class Received:
    """Counts the bytes that a page receives, without the script of plotly, which is cached."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.session = context.new_cdp_session(page)
        self.session.send("Network.enable")
        self._sizes: dict[str, float] = {}
        self._names: dict[str, str] = {}
        self.session.on(
            "Network.responseReceived",
            lambda event: self._names.update({event["requestId"]: event["response"]["url"]}),
        )
        self.session.on(
            "Network.loadingFinished",
            lambda event: self._sizes.update({event["requestId"]: event["encodedDataLength"]}),
        )

    @property
    def bytes(self) -> float:
        return sum(
            size
            for key, size in self._sizes.items()
            if "plotly.min.js" not in self._names.get(key, "")
        )


class Opened:
    """Measures one visit with an empty cache: seconds until the first chart or last row is drawn,
    CPU seconds of browser and service, bytes received, and layout shift."""

    def __init__(self, browser: Browser, url: str, until: str) -> None:
        trouble = Trouble()
        with browsers.window(browser, trouble) as (context, page):
            received = Received(context, page)
            session = received.session
            session.send("Performance.enable")
            began, served = time.monotonic(), time.process_time()
            page.goto(url, wait_until="commit")
            expect(page.locator(until).first).to_be_visible()
            self.seconds = time.monotonic() - began
            metrics = session.send("Performance.getMetrics")["metrics"]
            (spent,) = (each["value"] for each in metrics if each["name"] == "ProcessTime")
            self.work_s = time.process_time() - served + spent
            page.wait_for_timeout(500)
            self.bytes = received.bytes
            self.shift = page.evaluate(
                """() => new Promise((resolve) => {
                    let sum = 0;
                    const seen = new PerformanceObserver((list) => {
                        for (const entry of list.getEntries()) sum += entry.value;
                    });
                    seen.observe({type: "layout-shift", buffered: true});
                    setTimeout(() => resolve(sum), 100);
                })"""
            )
        assert trouble.found == []


def opens_quickly(browser: Browser, url: str, until: str) -> None:
    """Asserts that the fastest of MOST_OPENINGS visits takes less than QUICK_S seconds.

    On a crowded machine wall time depends on other processes. Then half of the CPU time counts
    instead, since browser and service use two cores.
    """
    is_crowded = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    opened: list[Opened] = []
    while len(opened) < MOST_OPENINGS:
        opened.append(Opened(browser, url, until))
        taken_s = opened[-1].work_s / 2 if is_crowded else opened[-1].seconds
        if taken_s < QUICK_S:
            break
    assert taken_s < QUICK_S
    assert opened[-1].bytes < MOST_BYTES
    assert opened[-1].shift < 0.02


@pytest.mark.full
def test_a_thousand_jobs_open_quickly(browser: Browser, server: Server, do: Do[Any]) -> None:
    async def fill(store: Store) -> None:
        for number in range(1000):
            await store.create(gallery.spec(f"sweep {number}", tags={"sweep": str(number % 7)}))

    do(fill)
    opens_quickly(browser, server.url, "tbody tr:nth-child(50)")
    with browsers.window(browser, Trouble()) as (_, page):
        page.goto(f"{server.url}/?status=queued&q=sweep&tag=sweep:3")
        seen: set[str] = set()
        while True:
            seen |= {row.get_attribute("id") or "" for row in page.locator("tbody tr").all()}
            if not page.get_by_role("link", name="Older").count():
                break
            page.get_by_role("link", name="Older").click()
            page.wait_for_load_state("load")
        assert len(seen) == 143


@pytest.mark.full
def test_five_thousand_meta_iterations_open_quickly(
    browser: Browser, server: Server, do: Do[Any]
) -> None:
    async def write(store: Store) -> str:
        lease = await gallery.running(store, gallery.spec("long", 5000, priority=80), size=12)
        await gallery.commit(store, lease, range(5000), 5000, size=12)
        return lease.job_id

    job_id = do(write)
    opens_quickly(browser, f"{server.url}/jobs/{job_id}", "job-chart[data-state=drawn]")


@pytest.mark.full
def test_a_million_hyperparameters_open_quickly(
    browser: Browser, server: Server, do: Do[Any]
) -> None:
    async def write(store: Store) -> str:
        wanted = gallery.spec("large", 10, kind="sample_weight", priority=80)
        lease = await gallery.running(store, wanted, size=1_000_000)
        await gallery.commit(store, lease, range(10), 10, "sample_weight", size=1_000_000)
        return lease.job_id

    job_id = do(write)
    opens_quickly(browser, f"{server.url}/jobs/{job_id}", "job-chart[data-state=drawn]")
    with browsers.window(browser, Trouble()) as (context, page):
        received = Received(context, page)
        page.goto(f"{server.url}/jobs/{job_id}")
        settled(page)
        expect(page.locator('job-chart[name="movers"] .main-svg').first).to_be_visible()
        lowest = page.locator('learned-entries[src*="order=lowest"]')
        lowest.scroll_into_view_if_needed()
        expect(lowest.locator("li")).to_have_count(12)
        assert received.bytes < MOST_BYTES  # with every chart and list of the page
        began = time.monotonic()
        lowest.evaluate("(list) => fetch(list.getAttribute('src')).then((found) => found.json())")
        assert time.monotonic() - began < QUICK_S
