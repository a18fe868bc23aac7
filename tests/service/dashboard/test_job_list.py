"""Tests the list of jobs in a real browser: order, selection, actions on many, columns, keys."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Browser, Page, expect

from drmad_client.records.job import JobRecord
from drmad_service.store import Store
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do


def test_a_head_sorts_by_its_column_and_the_address_keeps_it(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    page.goto(server.url)
    page.get_by_role("link", name="Best loss").click()
    head = page.locator("th.c-best")
    expect(head).to_have_attribute("aria-sort", "descending")
    head.get_by_role("link").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert "sort=best" in page.url
    shown = [text for text in page.locator("td.c-best").all_text_contents() if text != "–"]
    assert len(shown) >= 5
    assert [float(text) for text in shown] == sorted(float(text) for text in shown)
    page.get_by_role("searchbox").fill("sample_weight")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "sort=best" in page.url
    expect(page.locator("td.c-name")).to_contain_text("clean digits")
    expect(page.locator("th.c-tenant")).to_have_count(0)


def test_a_selection_is_kept_over_filters_and_its_jobs_are_cancelled_and_deleted(
    browser: Browser, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    trouble = Trouble(expected=("409",))

    async def create(store: Store) -> list[JobRecord]:
        wanted = [gallery.spec(f"bulk {n}", priority=-50) for n in range(2)]
        return [(await store.create(spec))[0] for spec in wanted]

    made = do(create)
    with browsers.window(browser, trouble) as (_, page):
        page.goto(f"{server.url}/?q=bulk+0")
        page.get_by_label("Compare bulk 0").check()
        page.goto(f"{server.url}/?q=bulk+1")
        page.get_by_label("Compare bulk 1").check()
        bar = page.locator("#selection")
        expect(bar).to_contain_text("2 selected")
        expect(page.get_by_role("button", name="Compare 2")).to_be_enabled()
        page.goto(server.url)
        expect(page.get_by_label("Compare bulk 0")).to_be_checked()
        bar.get_by_role("button", name="Cancel selected").click()
        page.get_by_role("button", name="Cancel jobs").click()
        expect(page.locator("#toasts")).to_contain_text("Cancellation of 2 jobs requested")
        expect(bar).to_be_hidden()
        for job in made:
            expect(page.locator(f"#row-{job.id} .chip").first).to_have_text("cancelled")
        for name in ("bulk 0", "bulk 1", "digits, two replicas"):
            page.get_by_label(f"Compare {name}").check()
        bar.get_by_role("button", name="Delete selected").click()
        page.get_by_role("button", name="Delete jobs").click()
        expect(page.locator("#toasts")).to_contain_text("Deleted 2 jobs")
        expect(page.locator("#toasts")).to_contain_text("it is running")
        expect(page.locator(f"#row-{made[0].id}")).to_have_count(0)
        expect(bar).to_contain_text("1 selected")
        bar.get_by_role("button", name="Clear").click()
        expect(bar).to_be_hidden()
    assert trouble.found == []


def test_the_list_is_used_by_keys_and_its_columns_are_chosen(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    page.goto(server.url)
    names = page.locator("a.name")
    page.keyboard.press("j")
    expect(names.nth(0)).to_be_focused()
    page.keyboard.press("j")
    expect(names.nth(1)).to_be_focused()
    page.keyboard.press("x")
    expect(page.locator("#selection")).to_contain_text("1 selected")
    page.keyboard.press("k")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Escape")
    page.locator("#columns summary").click()
    page.locator("#columns").get_by_label("Tags").uncheck()
    expect(page.locator("th.c-tags")).to_be_hidden()
    page.reload()
    expect(page.locator("th.c-tags")).to_be_hidden()
    expect(page.locator("th.c-test")).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/jobs/job_"))
