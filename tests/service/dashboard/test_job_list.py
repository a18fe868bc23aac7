"""Tests the list of jobs in a real browser: order, selection, actions on many, columns, keys."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Browser, Page, expect

from drmad_client.records.job import JobRecord
from drmad_client.spec.labels import LabelsSpec
from drmad_service.store import Store
from drmad_service.store.layout.state_machine import Action
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


def test_any_metric_is_a_column_that_sorts_and_stands_in_the_address(
    page: Page, server: Server, jobs: dict[str, str], do: Do[Any]
) -> None:
    """Also one with a slash, markup and other letters in its name, which some jobs lack."""
    strange = "test_f1/macro & <b>точность</b>"

    async def with_metric(store: Store) -> list[str]:
        made = []
        for value, group in ((0.5, None), (0.25, None), (0.875, "odd"), (0.625, "odd")):
            tags = {"group": group} if group else {}
            lease = await gallery.running(store, gallery.spec("odd", 1, tags=tags, priority=97))
            await gallery.commit(store, lease, range(1), 1, metrics={strange: value})
            await store.act(lease, Action.SUCCEED, "iterations", "completed")
            made.append(lease.job_id)
        return made

    made = do(with_metric)
    page.goto(f"{server.url}/?q=i")
    page.locator("#columns summary").click()
    menu = page.locator("#columns")
    menu.get_by_label("validation error").click()
    head = page.locator("th.c-metric")
    expect(head).to_have_text("Validation error")
    assert "metric=validation_error" in page.url
    page.locator("#columns summary").click()
    menu.get_by_label("test f1/macro & <b>точность</b>").click()
    expect(head).to_have_text(["Validation error", "Test f1/macro & <b>точность</b>"])
    head.nth(1).get_by_role("link").click()
    expect(head.nth(1)).to_have_attribute("aria-sort", "descending")
    assert "q=i" in page.url
    page.get_by_role("searchbox").fill("")
    cells = page.locator("tbody tr:not([hidden]) td.c-metric:nth-child(8)")
    expect(cells.first).to_have_text("0.75")  # the mean of the group
    shown = cells.all_text_contents()
    assert shown[:3] == ["0.75", "0.5", "0.25"]
    assert set(shown[3:]) == {"–"}
    assert "metric=validation_error" in page.url
    page.goto(f"{server.url}/cluster")
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(head).to_have_text(["Validation error", "Test f1/macro & <b>точность</b>"])
    page.goto(f"{server.url}/?metric=validation_error&sort=metric:validation_error")
    page.locator("#columns summary").click()
    menu.get_by_label("validation error").click()
    expect(head).to_have_count(0)
    assert page.url == f"{server.url}/?"
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.locator("tbody tr").first).to_be_visible()
    expect(head).to_have_count(0)

    async def removed(store: Store) -> None:
        for job in made:
            await store.delete(job)

    do(removed)


def test_a_selection_is_kept_over_filters_and_its_jobs_are_cancelled_and_deleted(
    browser: Browser, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    trouble = Trouble()

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
        expect(bar.get_by_role("button", name="Archive 2 of 3")).to_be_enabled()
        expect(bar.get_by_role("button", name="Tag selected")).to_be_enabled()
        bar.get_by_role("button", name="Delete 2 of 3").click()
        expect(page.get_by_role("dialog")).to_contain_text("1 job of the selection stays as it is")
        page.get_by_role("button", name="Delete jobs").click()
        expect(page.locator("#toasts")).to_contain_text("Deleted 2 jobs")
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


def test_a_group_is_one_row_in_sorted_and_searched_lists(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    """Its place in a list that is sorted by loss is that of its mean."""

    async def create(store: Store) -> list[str]:
        made = []
        for seed, floor in enumerate((0.05, 0.95)):
            tags = {"group": "two seeds"}
            wanted = gallery.spec(f"seed {seed}", 2, tags=tags, priority=97)
            lease = await gallery.running(store, wanted)
            await gallery.commit(store, lease, range(2), 2, floor=floor)
            await store.act(lease, Action.SUCCEED, "iterations", "completed")
            made.append(lease.job_id)
        return made

    made = do(create)
    means = page.locator("tbody tr:not([hidden]) td.c-best")
    for query in (
        "",
        "sort=best",
        "q=seed",
        "sort=name&q=seed",
        "sort=age&down=1&tag=group:two+seeds",
    ):
        page.goto(f"{server.url}/?{query}")
        folded = page.get_by_role("button", name="two seeds")
        if "tag=group" in query:  # the members are what was asked for
            expect(folded).to_have_count(0)
            expect(page.locator("tbody tr:not([hidden])")).to_have_count(2)
            continue
        expect(folded).to_have_count(1)
        for job in made:
            expect(page.locator(f"#row-{job}")).to_be_hidden()
        if query == "sort=best":
            shown = [text for text in means.all_text_contents() if text != "–"]
            values = [float(re.split("[^0-9.]", text.strip())[0][:6]) for text in shown]
            assert values == sorted(values)
        folded.click()
        expect(page.locator(f"#row-{made[1]}")).to_be_visible()
        folded.click()

    async def archived(store: Store) -> None:
        for job in made:
            await store.label(job, LabelsSpec(archived=True), by="tester")

    do(archived)
    page.goto(f"{server.url}/?archived=only&sort=best")
    expect(page.get_by_role("button", name="two seeds")).to_have_count(1)
    expect(page.locator("th.c-best")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("button", name="two seeds").click()
    for seed in range(2):
        page.get_by_label(f"Compare seed {seed}").check()
    page.get_by_role("button", name="Restore selected").click()
    page.get_by_role("button", name="Restore jobs").click()
    expect(page.locator("#toasts")).to_contain_text("Restored 2 jobs")
    expect(page.locator("#jobs")).to_contain_text("No archived jobs")

    async def removed(store: Store) -> None:
        for job in made:
            await store.delete(job)

    do(removed)


def test_a_group_without_a_result_is_listed(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    async def create(store: Store) -> list[str]:
        wanted = [
            gallery.spec(f"none {n}", tags={"group": "no result"}, priority=-60) for n in (1, 2)
        ]
        return [(await store.create(spec))[0].id for spec in wanted]

    made = do(create)
    for query in ("", "?sort=best", "?sort=test&down=1"):
        page.goto(f"{server.url}/{query}")
        row = page.locator("tr.folded", has_text="no result")
        expect(row).to_contain_text("group of 2 jobs, 1 setting")
        expect(row.locator("td.c-best")).to_have_text("–")

    async def ended(store: Store) -> None:
        for job in made:
            await store.cancel(job)

    do(ended)


def test_a_job_that_no_node_can_hold_asks_for_action_in_the_list_and_on_its_page(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    job = jobs["<img src=x onerror=alert(1)><b>bold</b>"]  # 64 replicas of one GPU each
    page.goto(server.url)
    row = page.locator(f"#row-{job}")
    expect(row.locator(".chip")).to_have_text(["queued", "cannot run"])
    expect(row.locator(".why.stuck")).to_contain_text("the cluster has 8")
    page.goto(f"{server.url}/jobs/{job}")
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("This job cannot run: needs 64 GPUs, the cluster has 8.")
    expect(notice.get_by_role("link")).to_have_attribute("href", f"/new?like={job}")
