"""A newcomer's way through the dashboard of `drmad up`: sign in, submit, watch, act."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_workers import spec_adapter
from tests import browser as browsers
from tests.browser import Trouble, editor
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
        editor(page).fill(text.replace("clean-digits", "by hand").replace("30}", "400}"))
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


def test_the_page_shows_the_lowest_weighted_examples_of_the_data_set(
    browser: Browser, service: Service
) -> None:
    spec = {
        "name": "weights",
        "problem": {"data": {"name": "digits", "train": 60, "valid": 40, "test": 0}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"steps": 10, "batch_size": 20},
        "meta": {"iterations": 3, "learning_rate": 0.5},
    }
    with service.client() as client:
        job = client.jobs.create(spec).wait(timeout_s=60.0)
        weights = job.hyperparameters()["sample_weight"]
    assert np.ptp(weights) > 0
    order = np.argsort(weights, kind="stable")
    problem = spec_adapter.problem(JobSpec.model_validate(spec), None, None)
    images = np.asarray(problem.train[0]).reshape(-1, 8, 8)
    labels = np.asarray(problem.train[1])
    link = service.run("open", "--port", str(service.port)).stdout.strip()
    trouble = Trouble()
    with browsers.window(browser, trouble) as (_, page):
        page.goto(link)
        page.wait_for_url(f"{service.url}/")
        page.goto(f"{service.url}/jobs/{job.id}")
        for title, expected in (("lowest", order[:12]), ("highest", order[::-1][:12])):
            found = page.locator(f'learned-entries[src*="order={title}"]')
            found.scroll_into_view_if_needed()
            expect(found).to_have_attribute("data-examples", "shown", timeout=START_MS)
            rows = [int(str(li.get_attribute("data-index"))) for li in found.locator("li").all()]
            np.testing.assert_array_equal(weights[rows], weights[expected])
            for row, image in zip(rows, found.locator("img").all(), strict=True):
                grey = np.array(image.evaluate(browsers.PIXELS), dtype=float).reshape(8, 8)
                shown = images[row] - images[row].min()
                np.testing.assert_allclose(grey, 255 * shown / shown.max(), atol=0.51)
        groups = page.locator("learned-groups tbody tr")
        expect(groups).to_have_count(len(set(labels.tolist())), timeout=START_MS)
        means = {label: weights[labels == label].mean() for label in set(labels.tolist())}
        lowest = min(means, key=lambda label: means[label])
        expect(groups.first).to_contain_text(f"class {lowest}")
        expect(groups.first.locator("td").nth(1)).to_have_text(str((labels == lowest).sum()))
        page.get_by_label("Find by index or name").fill("17")
        one = page.locator("learned-entries[found] li")
        expect(one).to_have_count(1)
        expect(one.locator("img")).to_have_attribute("alt", "training example 17", timeout=START_MS)
    assert trouble.found == []
