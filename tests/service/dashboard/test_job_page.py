"""Tests the page of one job in a real browser."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page, Route, expect

from drmad_client.records.job import Progress
from drmad_service.store import Lease, Store
from drmad_service.store.layout.state_machine import Action
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do, settled


def test_curves_and_numbers_follow_the_job_without_a_reload(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    async def begin(store: Store) -> Lease:
        return await gallery.running(store, gallery.spec("followed", 40, priority=50))

    lease: Lease = do(begin)
    page.goto(f"{server.url}/jobs/{lease.job_id}")
    expect(page.locator("#replicas table")).to_have_count(0)
    expect(page.locator("#trials table")).to_have_count(0)
    do(lambda store: gallery.commit(store, lease, range(5), 40))
    expect(page.locator("#replicas tbody tr")).to_have_count(2)
    plot = page.locator('job-chart[name="losses"] [data-points]')
    expect(plot).to_have_attribute("data-points", "5")
    page.evaluate("window.mark = 'the same document'")
    page.get_by_role("tab", name="Python").click()
    page.mouse.wheel(0, -100_000)
    at = Progress(iteration=5, iterations=40, phase="forward", step=120, steps=400, remaining_s=90)
    do(lambda store: store.progress(lease, at))
    expect(page.locator("#phase")).to_have_text("forward, step 120 of 400")
    expect(page.locator("#remaining")).to_have_text("1 min 30 s")
    do(lambda store: gallery.commit(store, lease, range(5, 9), 40))
    expect(plot).to_have_attribute("data-points", "9")
    expect(page.locator("#iteration")).to_have_text("9")
    do(lambda store: store.log(lease, 0, ["a line from afar"]))
    do(lambda store: store.act(lease, Action.SUCCEED, "patience", "no longer improves"))
    expect(page.locator("#facts .chip")).to_have_text("succeeded")
    expect(page.locator("#live")).to_have_text("ended")
    expect(page.locator("#logs")).to_contain_text("a line from afar")
    expect(page.get_by_role("tab", name="Python")).to_have_attribute("aria-selected", "true")
    assert page.evaluate("window.mark") == "the same document"


def test_a_chart_that_does_not_load_is_requested_again(
    browser: Browser, server: Server, jobs: dict[str, str]
) -> None:
    refused = {"losses": 2, "cosines": 1}
    trouble = Trouble(expected=("503", "ERR_FAILED"))

    def answer(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        if not refused.get(name):
            return route.continue_()
        refused[name] -= 1
        return route.fulfill(status=503) if name == "losses" else route.abort()

    with browsers.window(browser, trouble) as (_, page):
        page.route("**/figures/*", answer)
        page.goto(f"{server.url}/jobs/{jobs['night shift']}")
        losses = page.locator('job-chart[name="losses"]')
        expect(losses).to_have_attribute("data-state", "failed")
        expect(losses).to_contain_text("Retrying")
        settled(page)
        # A change while a chart is being drawn causes another drawing.
        losses.evaluate("(chart) => { chart.stale(); chart.stale(); }")
        expect(losses).to_have_js_property("isBusy", False)
        expect(losses).to_have_js_property("isStale", False)
    assert refused == {"losses": 0, "cosines": 0}
    assert trouble.found == []


def test_replicas_show_their_share_of_the_data_and_their_staleness(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    page.goto(f"{server.url}/jobs/{jobs['night shift']}")
    second = page.locator("#replicas tbody tr").nth(1)
    expect(page.locator("#replicas thead")).to_contain_text("ExamplesStaleness")
    expect(second).to_contain_text("500 + 150")
    expect(second.locator("td").nth(4)).to_have_text("2")
    expect(page.locator("#chart-staleness")).to_contain_text("Staleness of hypergradients")


def test_proofs_are_a_table_with_their_findings_and_remedies(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    page.goto(f"{server.url}/jobs/{jobs['attention kernel']}")
    expect(page.get_by_role("button", name="Extend", exact=True)).to_have_count(0)
    expect(page.locator("#notice")).to_contain_text("preflight: {override: [second_derivatives]}")
    panel = page.locator("#preflight")
    expect(panel.locator("header")).to_contain_text("one proof failed")
    results = panel.locator(".proofs .chip")
    expect(results).to_have_text(["passed", "passed", "failed", "skipped", "passed"])
    signs = results.evaluate_all(
        "(chips) => chips.map((chip) => getComputedStyle(chip, '::before').content[1])"
    )
    assert signs == ["✓", "✓", "✕", "–", "✓"]
    cells = panel.locator(".proofs tbody tr").nth(2).locator("td")
    (failed,) = gallery.PREFLIGHT.failed
    assert failed.where is not None
    assert failed.remedy is not None
    expect(cells).to_have_text(
        ["second derivatives", "failed", failed.where, failed.detail, failed.remedy, "90 ms"]
    )
    page.goto(f"{server.url}/jobs/{jobs['digits, two replicas']}")
    expect(results.nth(2)).to_have_text("failed, overridden")
    page.goto(f"{server.url}/jobs/{jobs['night shift']}")
    expect(page.locator(".proofs")).to_have_count(0)


def test_buttons_pause_resume_cancel_extend_and_delete(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    created, _ = do(lambda store: store.create(gallery.spec("to be acted on", priority=-50)))
    page.goto(f"{server.url}/jobs/{created.id}")
    state = page.locator("#facts .chip")
    ahead = "was submitted earlier and has the higher priority (5)"
    expect(page.locator("#notice")).to_contain_text(ahead)
    count = page.locator("#tiles > div", has_text="Hyperparameters")
    expect(count.locator(".value")).to_have_text("–")
    expect(count).to_contain_text("l2: counted when a worker has built the problem")
    expect(page.locator("h2.part")).to_have_text(["Curves", "Time, logs and spec"])
    link = page.get_by_role("link", name="Job ahead")
    expect(link).to_have_attribute("href", f"/jobs/{jobs['ablation, 3 of 3']}")
    page.get_by_role("button", name="Pause").click()
    expect(state).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(state).to_have_text("queued")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Keep job").click()
    expect(state).to_have_text("queued")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel job").click()
    expect(state).to_have_text("cancelled")
    page.get_by_role("button", name="Extend").click()
    page.get_by_label("Additional meta-iterations").fill("7")
    page.get_by_role("dialog").get_by_role("button", name="Extend").click()
    expect(state).to_have_text("queued")
    expect(page.locator("#tiles")).to_contain_text("of 37 meta-iterations")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel job").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete job").click()
    page.wait_for_url(f"{server.url}/")
    expect(page.locator(f"#row-{created.id}")).to_have_count(0)


def test_a_refused_action_shows_the_reason(
    browser: Browser, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    created, _ = do(lambda store: store.create(gallery.spec("fork of nothing", priority=-50)))
    trouble = Trouble(expected=("409",))
    with browsers.window(browser, trouble) as (_, page):
        page.goto(f"{server.url}/jobs/{jobs['a mistake']}")
        expect(page.get_by_role("button", name="Delete")).to_be_visible()
        # A button of an outdated page.
        page.locator("#actions").evaluate(
            "(actions) => actions.insertAdjacentHTML('beforeend',"
            " '<button type=button data-action=pause>Pause</button>')"
        )
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#toasts")).to_contain_text("it is cancelled")
    assert trouble.found == []
    do(lambda store: store.cancel(created.id))


def test_the_timeline_shows_webhook_search_rollback_and_lost_replicas(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    page.goto(f"{server.url}/jobs/{jobs['digits, l2 per unit']}")
    expect(page.locator("#facts")).to_contain_text("webhook hooks.example")
    first = page.locator("#timeline li").first
    expect(first).to_contain_text("webhook delivered")
    expect(first).to_contain_text("hooks.example: answered 204")
    page.goto(f"{server.url}/jobs/{jobs['digits, two replicas']}")
    timeline = page.locator("#timeline")
    expect(timeline).to_contain_text("meta-iterations start from trial")
    expect(timeline.locator(".chip.rollback")).to_have_text("rollback")
    expect(timeline.locator(".chip.warning")).to_have_count(1)


def test_the_verdict_tells_the_confirmed_figure_beside_the_untuned_one(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    page.goto(f"{server.url}/jobs/{jobs['digits, l2 per unit']}")
    verdict = page.locator(".verdict-line")
    expect(verdict.locator(".headline")).to_have_text("Test error 5.32 % 4.9 to 5.7 %")
    expect(verdict.locator(".comparison")).to_have_text(
        "better 12.68 points better than the untuned 18.00 % (17.6 to 18.4 %); "
        "the intervals do not overlap."
    )
    expect(verdict).to_contain_text("Means of 3 training runs with fresh draws")
    expect(page.locator(".doubts")).to_have_count(0)
    expect(page.get_by_role("link", name="Duplicate")).to_have_attribute(
        "href", f"/new?like={jobs['digits, l2 per unit']}"
    )
    parts = page.locator("h2.part")
    expect(parts).to_have_text(
        ["Curves", "What was learned", "Hypergradients", "Trust", "Time, logs and spec"]
    )
    page.goto(f"{server.url}/jobs/{jobs['digits, two replicas']}")
    expect(verdict).to_contain_text("the job confirms it at its end")
    expect(page.locator(".doubts")).to_contain_text("second_derivatives failed and was overridden")
    page.goto(f"{server.url}/jobs/{jobs['clean digits']}")
    probes = page.locator("#probes tbody tr")
    expect(probes).to_have_count(2)
    expect(probes.nth(1)).to_contain_text("shortcut chosen")


def test_a_chart_is_as_high_as_its_panels_need_also_on_a_phone(
    browser: Browser, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    """Four panels below a legend of six rows left each a dozen pixels."""

    async def begin(store: Store) -> str:
        lease = await gallery.running(store, gallery.spec("metrics", 4, priority=60))
        more = {"label_noise_auc": 0.9, "label_noise_precision": 0.8}
        await gallery.commit(store, lease, range(4), 4, metrics=more)
        await store.act(lease, Action.SUCCEED, "iterations", "completed")
        return lease.job_id

    job = do(begin)
    trouble = Trouble()
    with browsers.window(browser, trouble, width=390) as (_, page):
        page.goto(f"{server.url}/jobs/{job}")
        chart = page.locator('job-chart[name="losses"]')
        chart.scroll_into_view_if_needed()
        expect(chart).to_have_attribute("data-state", "drawn")
        heights = chart.evaluate(
            """({ view }) => view.plots.map(({ over }) => over.clientHeight)"""
        )
        assert len(heights) == 4
        assert min(heights) > 80, heights
    assert trouble.found == []
