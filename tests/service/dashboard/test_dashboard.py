"""Tests the dashboard in a real browser, on a store with jobs in every state."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Dialog, Page, expect
from redis import Redis

from drmad_service.api.auth import api_keys
from drmad_service.store.layout import keys
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import IMAGES, Do, accessible, fits, settled

MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"


def pages(jobs: dict[str, str]) -> dict[str, str]:
    compared = [jobs[name] for name in ("digits, l2 per unit", "clean digits", "night shift")]
    return {
        "jobs": "/",
        "job": f"/jobs/{jobs['digits, two replicas']}",
        "new": "/new",
        "compare": "/compare?" + "&".join(f"job={job}" for job in compared),
        "cluster": "/cluster",
        "api": "/docs",
        "sign-in": "/sign-in",
        "failed": f"/jobs/{jobs['rate too high']}",
        "preflight": f"/jobs/{jobs['attention kernel']}",
        "fork": f"/jobs/{jobs['night shift']}/fork",
        "missing": "/jobs/job_none",
    }


def test_every_page_is_clean_accessible_and_fits_in_light_dark_and_narrow(
    browser: Browser, server: Server, jobs: dict[str, str]
) -> None:
    """In dark and on a phone a page differs in colours and widths alone, so it is opened once for
    both themes."""
    trouble = Trouble(expected=("404",))
    with browsers.window(browser, trouble) as (_, page):
        for name, path in pages(jobs).items():
            page.emulate_media(color_scheme="light")
            page.goto(server.url + path)
            settled(page)
            fits(page, name)
            pictured(page, name, "light")
            accessible(page, f"{name}, light")
            page.emulate_media(color_scheme="dark")
            expect(page.locator("html")).to_have_attribute("data-theme", "dark")
            accessible(page, f"{name}, dark", "color-contrast")
            pictured(page, name, "dark")
    with browsers.window(browser, trouble, width=390) as (_, page):
        for name, path in pages(jobs).items():
            page.goto(server.url + path)
            settled(page)
            fits(page, f"{name}, narrow")
            pictured(page, name, "narrow")
    assert trouble.found == []


def pictured(page: Page, name: str, scheme: str) -> None:
    if not IMAGES or name == "missing":
        return
    page.wait_for_timeout(1500)  # charts are drawn again in the colours of the theme
    page.screenshot(path=Path(IMAGES) / f"{name}-{scheme}.png")


def test_a_name_with_markup_stays_text_everywhere(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    alerts: list[str] = []

    def alerted(dialog: Dialog) -> None:
        alerts.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", alerted)
    job = jobs[MARKUP]
    others = f"job={job}&job={jobs['clean digits']}"
    for path in ("/", f"/jobs/{job}", "/cluster", f"/compare?{others}", f"/new?like={job}"):
        page.goto(server.url + path)
        page.wait_for_timeout(300)
        shown = page.locator("body").inner_text()
        if page.locator("#yaml").count():
            shown += page.locator("#yaml").input_value()
        assert MARKUP in shown, path
        assert page.locator('img[src="x"]').count() == 0
    assert alerts == []


def test_the_list_is_live_filtered_and_paged(page: Page, server: Server, do: Do[Any]) -> None:
    page.goto(server.url)
    expect(page.locator("#live")).to_have_text("live")
    name = f"arrives at {time.time():.0f}"
    created, _ = do(lambda store: store.create(gallery.spec(name, tags={"team": "late"})))
    row = page.locator(f"#row-{created.id}")
    expect(row).to_contain_text(name)
    expect(row.locator(".chip").first).to_have_text("queued")
    page.get_by_role("searchbox").fill("night shi")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.url.endswith("/?q=night+shi")
    page.get_by_role("searchbox").fill("")
    page.get_by_label("Filter by tag").fill("team:late")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto(f"{server.url}/?status=failed")
    why = page.locator("tbody .why")
    expect(why).to_contain_text(["proofs of the preflight failed", "NaN from step 37 on"])
    page.goto(f"{server.url}/?q=nothing-is-called-so")
    expect(page.locator("#jobs")).to_contain_text("No matching jobs")
    do(lambda store: store.cancel(created.id))


def test_a_refresh_keeps_what_the_reader_ticked_opened_and_focused(
    page: Page, server: Server, do: Do[Any]
) -> None:
    page.goto(server.url)
    expect(page.locator("#live")).to_have_text("live")
    box = page.get_by_label("Compare night shift")
    box.check()
    created, _ = do(lambda store: store.create(gallery.spec("on top", priority=-50)))
    expect(page.locator(f"#row-{created.id}")).to_be_visible()
    expect(box).to_be_checked()
    expect(box).to_be_focused()
    page.goto(f"{server.url}/jobs/{created.id}")
    expect(page.locator("#live")).to_have_text("live")
    menu = page.locator("#downloads")
    menu.locator("summary").click()
    chart = page.locator("job-chart").first
    expect(chart).to_have_attribute("data-state", "empty")
    drawn = chart.inner_html()
    chart.evaluate("(chart) => { window.kept = chart; }")
    do(lambda store: store.pause(created.id))
    expect(page.locator("#facts .chip")).to_have_text("paused")
    expect(menu).to_have_attribute("open", "")
    expect(menu.locator("summary")).to_be_focused()
    expect(chart).to_have_attribute("data-state", "empty")
    assert chart.inner_html() == drawn
    assert chart.evaluate("(chart) => chart === window.kept")
    do(lambda store: store.cancel(created.id))


def test_a_cluster_without_a_scheduler_shows_the_command_to_start_one(
    page: Page, server: Server, do: Do[Any], redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.delete(keys.NODES)
    page.goto(f"{server.url}/cluster")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("drmad schedule")
    expect(page.locator("#nodes")).to_have_count(0)
    do(lambda store: store.report_nodes("scheduler_1", gallery.nodes()))
    expect(page.locator("#nodes")).to_be_visible()


def test_chosen_jobs_are_compared(page: Page, server: Server, jobs: dict[str, str]) -> None:
    page.goto(server.url)
    button = page.get_by_role("button", name="Compare")
    expect(button).to_be_disabled()
    for name in ("clean digits", "night shift"):
        page.get_by_label(f"Compare {name}").check()
    button.click()
    expect(page.locator("h1")).to_have_text("Compare")
    chart = page.locator('job-chart[name="compare"]')
    expect(chart).to_have_attribute("data-state", "drawn")
    assert chart.evaluate("({ view }) => view.panels.map(({ traces }) => traces.length)") == [2]
    fields = page.locator("section", has_text="Spec differences").locator("th[scope=row]")
    expect(fields.first).to_be_visible()
    assert "hyperparameters[0].kind" in fields.all_text_contents()
    assert "training.steps" not in fields.all_text_contents()
    expect(page.locator("td.best")).to_have_count(1)


def test_a_lost_connection_is_shown_and_comes_back_by_itself(
    browser: Browser, redis_url: str, do: Do[Any], jobs: dict[str, str]
) -> None:
    server = Server(redis_url)
    server.start()
    trouble = Trouble(expected=("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY"))
    job_id = jobs["digits, two replicas"]
    with browsers.window(browser, trouble) as (context, page):
        page.goto(f"{server.url}/jobs/{job_id}")
        overview = context.new_page()
        trouble.watch(overview)
        overview.goto(server.url)
        for tab in (page, overview):
            expect(tab.locator("#live")).to_have_text("live")
        server.stop()
        for tab in (page, overview):
            expect(tab.locator("#live")).to_have_text("reconnecting")
        do(lambda store: store.pause(job_id))  # while no stream is open
        server.start()
        for tab in (page, overview):
            expect(tab.locator("#live")).to_have_text("live")
        expect(page.locator("#facts .chip")).to_have_text("pausing")
        expect(overview.locator(f"#row-{job_id} .chip").first).to_have_text("pausing")
    server.stop()
    assert trouble.found == []
    do(lambda store: store.resume(job_id))


def test_a_key_signs_in_and_a_sign_out_locks(
    browser: Browser, redis_url: str, jobs: dict[str, str]
) -> None:

    key = "drmad_" + "s" * 43
    server = Server(redis_url, key)
    server.start()
    trouble = Trouble(expected=("401",))
    with browsers.window(browser, trouble) as (_, page):
        page.goto(f"{server.url}/?status=failed")
        page.get_by_label("Key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#wrong")).to_contain_text("is unknown")
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{server.url}/?status=failed")
        expect(page.locator("tbody tr")).to_have_count(2)
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{server.url}/sign-in")
        page.goto(server.url)
        assert "/sign-in" in page.url
        page.goto(f"{server.url}/sign-in?next=/cluster#ticket={api_keys.issue_ticket(key)}")
        page.wait_for_url(f"{server.url}/cluster")
        assert "ticket" not in page.evaluate("location.href")
        page.goto(server.url)
        expect(page.locator("#live")).to_have_text("live")
        page.goto(f"{server.url}/sign-in?next=https://evil.example/")
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{server.url}/")
    server.stop()
    assert trouble.found == []


def test_the_theme_is_chosen_and_kept(page: Page, server: Server) -> None:
    page.goto(server.url)
    root = page.locator("html")
    expect(root).to_have_attribute("data-theme", "light")
    page.get_by_role("button", name="Colour theme").click()
    page.get_by_role("button", name="Colour theme").click()
    expect(root).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(root).to_have_attribute("data-theme", "dark")
