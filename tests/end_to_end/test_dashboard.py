"""A newcomer's way through the dashboard of `drmad up`: sign in, submit, watch, act."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from drmad_client.records.status import JobStatus
from tests import browser as browsers
from tests.browser import Trouble
from tests.end_to_end.running import Service

START_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as browser:
        yield browser


def test_a_job_is_submitted_watched_paused_resumed_and_cancelled(
    browser: Browser, service: Service
) -> None:
    link = service.run("open", "--port", str(service.port)).stdout.strip()
    trouble = Trouble()
    with browsers.window(browser, trouble) as (_, page):
        page.goto(link)
        page.wait_for_url(f"{service.url}/")
        page.get_by_role("link", name="New job").first.click()
        expect(page.locator("#verdict")).to_contain_text("can be submitted")
        text = page.locator("#yaml").input_value()
        page.locator("#yaml").fill(text.replace("clean-digits", "by hand").replace("30}", "400}"))
        expect(page.locator('[id="f.name"]')).to_have_value("by hand")
        expect(page.locator("#verdict")).to_contain_text("can be submitted")
        page.get_by_role("button", name="Submit job").click()
        page.wait_for_url(f"{service.url}/jobs/job_*")
        job_id = page.url.rpartition("/")[2]
        state = page.locator("#facts .chip")
        expect(state).to_have_text("running", timeout=START_MS)
        # Curves grow by themselves.
        plot = page.locator('job-chart[name="losses"] [data-points]')
        expect(plot).to_be_visible(timeout=START_MS)
        points = plot.get_attribute("data-points") or ""
        expect(plot).not_to_have_attribute("data-points", points, timeout=START_MS)
        page.get_by_role("button", name="Pause").click()
        expect(state).to_have_text("paused", timeout=START_MS)
        page.get_by_role("button", name="Resume").click()
        expect(state).to_have_text("running", timeout=START_MS)
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Cancel job").click()
        expect(state).to_have_text("cancelled", timeout=START_MS)
        page.get_by_role("link", name="Cluster").click()
        expect(page.locator("#cluster")).to_contain_text("online")
        page.get_by_role("link", name="New job").click()
        page.get_by_role("button", name="Validate on a worker").click()
        found = page.locator("#found")
        expect(found).to_contain_text("No problems found", timeout=START_MS)
        expect(found).to_contain_text("Estimated duration of the job")
        expect(found).to_contain_text("sample_weight (1,000)")
    assert trouble.found == []
    with service.client() as client:
        assert client.jobs.retrieve(job_id).status is JobStatus.CANCELLED
