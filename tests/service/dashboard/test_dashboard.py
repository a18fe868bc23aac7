"""Tests the dashboard in a real browser, on a store with jobs in every state."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, Route, expect
from redis import Redis

from drmad_client.records.job import Progress
from drmad_client.spec import catalog
from drmad_service.api.auth import api_keys
from drmad_service.store import Lease, Store, keys
from drmad_service.store.connection import connect
from drmad_service.store.state_machine import Action
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard import gallery

T = TypeVar("T")

# A shared machine may be slow; opens_quickly alone measures times.
expect.set_options(timeout=60_000)
Do = Callable[[Callable[[Store], Coroutine[Any, Any, T]]], T]

QUICK_S = 1.5
MOST_OPENINGS = 8
MOST_BYTES = 2_000_000
MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"


@pytest.fixture(scope="module")
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
    do(lambda store: store.tell_nodes("scheduler_1", gallery.nodes()))
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


def pages(jobs: dict[str, str]) -> dict[str, str]:
    compared = [jobs[name] for name in ("digits, l2 per unit", "clean digits", "night shift")]
    return {
        "jobs": "/",
        "job": f"/jobs/{jobs['mnist, per weight']}",
        "new": "/new",
        "compare": "/compare?" + "&".join(f"job={job}" for job in compared),
        "cluster": "/cluster",
        "api": "/docs",
        "sign-in": "/sign-in",
        "failed": f"/jobs/{jobs['rate too high']}",
        "fork": f"/jobs/{jobs['night shift']}/fork",
        "missing": "/jobs/job_none",
    }


def settled(page: Page) -> None:
    """Waits until every chart is drawn or empty."""
    page.wait_for_load_state("load")
    for chart in page.locator("job-chart").all():
        chart.scroll_into_view_if_needed()
        expect(chart).to_have_attribute("data-state", re.compile("^(drawn|empty)$"))
    page.mouse.wheel(0, -100_000)
    page.wait_for_timeout(150)


def test_every_page_is_clean_accessible_and_fits_in_light_dark_and_narrow(
    browser: Browser, server: Server, jobs: dict[str, str]
) -> None:
    images = os.environ.get("DRMAD_IMAGES")  # the screenshots of docs: `make images`
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    for look, width, dark in (
        ("light", 1280, False),
        ("dark", 1280, True),
        ("narrow", 400, False),
    ):
        trouble = Trouble(expected=("404",))
        with browsers.window(browser, trouble, width=width, dark=dark) as (_, page):
            for name, path in pages(jobs).items():
                page.goto(server.url + path)
                settled(page)
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, f"{name} is {wide} pixels too wide at {width}"
                if images and name != "missing":
                    page.screenshot(path=Path(images) / f"{name}-{look}.png")
                if look == "narrow":
                    continue  # the rules do not depend on the width
                page.evaluate(axe)
                # Dark pages differ only in their colours.
                rules = {"runOnly": ["color-contrast"]} if dark else {}
                report = page.evaluate("(rules) => axe.run(rules)", rules)
                serious = [
                    (fault["id"], [node["html"][:200] for node in fault["nodes"]])
                    for fault in report["violations"]
                    if fault["impact"] in ("serious", "critical")
                ]
                assert serious == [], f"{name}, {look}"
        assert trouble.found == []


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
    expect(page.locator("#chart-staleness")).to_contain_text("Staleness of the arrivals")


def test_the_list_is_live_filtered_and_paged(page: Page, server: Server, do: Do[Any]) -> None:
    page.goto(server.url)
    expect(page.locator("#live")).to_have_text("live")
    name = f"arrives at {time.time():.0f}"
    created, _ = do(lambda store: store.create(gallery.spec(name, tags={"team": "late"})))
    row = page.locator(f"#row-{created.id}")
    expect(row).to_contain_text(name)
    expect(row.locator(".chip")).to_have_text("queued")
    page.get_by_role("searchbox").fill("night shi")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.url.endswith("/?q=night+shi")
    page.get_by_role("searchbox").fill("")
    page.get_by_label("Filter by tag").fill("team:late")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto(f"{server.url}/?status=failed")
    expect(page.locator("tbody .why")).to_contain_text("NaN from step 37 on")
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


def test_buttons_pause_resume_cancel_extend_and_delete(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    created, _ = do(lambda store: store.create(gallery.spec("to be acted on", priority=-50)))
    page.goto(f"{server.url}/jobs/{created.id}")
    state = page.locator("#facts .chip")
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


def test_a_job_is_submitted_through_the_form(page: Page, server: Server, do: Do[Any]) -> None:
    page.goto(f"{server.url}/new")
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text("can be submitted")
    form = page.locator("#form")
    name = form.get_by_label("name", exact=True).first
    name.fill("from the form")
    name.press("Tab")
    yaml = page.locator("#yaml")
    expect(yaml).to_have_value(re.compile("name: from the form"))
    steps = form.locator('[id="f.training.steps"]')
    form.get_by_text("Training", exact=True).click()
    steps.fill("-4")
    steps.press("Tab")
    expect(verdict).to_contain_text("training.steps must be greater than or equal to 1, got -4")
    expect(form.locator('[id="f.training.steps!"]')).to_be_visible()
    expect(page.locator("#submit")).to_be_disabled()
    steps.fill("60")
    steps.press("Tab")
    expect(verdict).to_contain_text("can be submitted")
    form.get_by_role("button", name="Add to hyperparameters").click()
    expect(verdict).to_contain_text("hyperparameters[1].kind")
    form.locator('[id="f.hyperparameters.1.?"]').select_option("l2")
    expect(verdict).to_contain_text("can be submitted")
    form.get_by_text("Search", exact=True).click()
    searched = form.locator('[id="f.search.parameters"]')
    searched.fill('training.learning_rate: {"low": 0.01, "high": 1}')
    searched.press("Tab")
    expect(yaml).to_have_value(re.compile("low: 0.01"))
    expect(verdict).to_contain_text("can be submitted")
    page.locator("#submit").click()
    page.wait_for_url(f"{server.url}/jobs/job_*")
    expect(page.locator("h1")).to_have_text("from the form")
    expect(page.locator("#trials")).to_contain_text("0 of 20 trials, tpe sampler")
    job_id = page.url.rpartition("/")[2]
    job = do(lambda store: store.get(job_id))
    assert job.spec.training.steps == 60
    assert [h.kind for h in job.spec.hyperparameters] == ["sample_weight", "l2"]
    do(lambda store: store.cancel(job_id))


def test_every_model_data_set_kind_and_method_is_reached_by_the_form(
    page: Page, server: Server
) -> None:
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    closed = page.locator("#form details:not([open]) > summary")
    while closed.count():
        closed.first.click()
    offered = catalog.describe()
    for field, part, key in (
        ("problem.model", "models", "name"),
        ("problem.data", "data", "name"),
        ("hyperparameters.0", "hyperparameters", "kind"),
        ("hypergradient", "methods", "method"),
    ):
        for name in [described["name"] for described in offered[part]]:
            page.locator(f'[id="f.{field}.?"]').select_option(name)
            expect(page.locator("#yaml")).to_have_value(re.compile(rf"\b{key}: {name}\n"))
            expect(page.locator(f'[id="f.{field}.?"]')).to_have_value(name)


def test_a_job_is_submitted_paused_and_cancelled_by_the_keyboard_alone(
    page: Page, server: Server, do: Do[Any]
) -> None:
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    yaml = page.locator("#yaml")
    _tab_to(page, yaml)
    page.keyboard.press("Control+End")
    page.keyboard.type("priority: -50")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    expect(yaml).not_to_be_focused()
    _tab_to(page, page.locator("#submit"), "Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{server.url}/jobs/job_*")
    state = page.locator("#facts .chip")
    _tab_to(page, page.get_by_role("button", name="Pause"))
    page.keyboard.press("Enter")
    expect(state).to_have_text("paused")
    _tab_to(page, page.get_by_role("button", name="Cancel"))
    page.keyboard.press("Enter")
    _tab_to(page, page.get_by_role("button", name="Cancel job"))
    page.keyboard.press("Enter")
    expect(state).to_have_text("cancelled")
    assert do(lambda store: store.get(page.url.rpartition("/")[2])).spec.priority == -50


def _tab_to(page: Page, wanted: Locator, key: str = "Tab") -> None:
    for _ in range(60):
        if wanted.evaluate("(element) => element === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{wanted} is not reached by {key}")


def test_a_cluster_without_a_scheduler_shows_the_command_to_start_one(
    page: Page, server: Server, do: Do[Any], redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.delete(keys.NODES)
    page.goto(f"{server.url}/cluster")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("drmad schedule")
    expect(page.locator("#nodes")).to_have_count(0)
    do(lambda store: store.tell_nodes("scheduler_1", gallery.nodes()))
    expect(page.locator("#nodes")).to_be_visible()


def test_the_timeline_shows_webhook_search_rollback_and_lost_replicas(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    page.goto(f"{server.url}/jobs/{jobs['digits, l2 per unit']}")
    expect(page.locator("#facts")).to_contain_text("webhook hooks.example")
    first = page.locator("#timeline li").first
    expect(first).to_contain_text("webhook delivered")
    expect(first).to_contain_text("hooks.example: answered 204")
    page.goto(f"{server.url}/jobs/{jobs['mnist, per weight']}")
    timeline = page.locator("#timeline")
    expect(timeline).to_contain_text("meta-iterations start from trial")
    expect(timeline.locator(".chip.rollback")).to_have_text("rollback")
    expect(timeline.locator(".chip.warning")).to_have_count(1)


def test_data_of_this_machine_are_uploaded_and_named_in_the_job(page: Page, server: Server) -> None:
    file = io.BytesIO()
    np.savez(file, inputs=np.zeros((9, 2)), targets=np.arange(9) % 3)
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    page.get_by_label("Upload data").set_input_files(
        {"name": "mine.npz", "mimeType": "application/octet-stream", "buffer": file.getvalue()}
    )
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    expect(page.locator("#yaml")).to_have_value(
        re.compile(f"name: upload\n +data: sha256:{digest}")
    )
    expect(page.locator("#verdict")).to_contain_text("problem.data.train")


def test_a_failed_preflight_is_shown_until_the_job_changes(
    browser: Browser, server: Server
) -> None:
    detail = "problem_invalid: build() returned None\nmine.py, line 3"
    refusal = {"code": "problem_invalid", "detail": detail}
    trouble = Trouble(expected=("422",))
    with browsers.window(browser, trouble) as (_, page):
        page.route(
            "**/v1/jobs?validate_only*", lambda route: route.fulfill(status=422, json=refusal)
        )
        page.goto(f"{server.url}/new")
        page.get_by_role("button", name="Validate on a worker").click()
        found = page.locator("#found")
        expect(found).to_have_text(detail)
        page.locator("#yaml").press_sequentially("# changed\n")
        expect(found).to_be_hidden()
    assert trouble.found == []


def test_yaml_is_validated_line_by_line_while_typing(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    for text, said in (
        ("name: [", "Line 2"),
        ("- a list", "expected the fields of a job"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("problem:\n  data: {name: digitz}\nhyperparameters: [{kind: l2}]", "Line 2"),
        ("[" * 3000, "nested"),
    ):
        page.locator("#yaml").fill(text)
        expect(page.locator("#verdict")).to_contain_text(said)
        expect(page.locator("#submit")).to_be_disabled()
    page.locator("#example").select_option("digits-l2")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    expect(page.locator('[id="f.hyperparameters.0.?"]')).to_have_value("l2")


def test_a_fork_changes_what_its_form_changes(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    page.goto(f"{server.url}/jobs/{jobs['night shift']}")
    page.get_by_role("link", name="Fork").click()
    expect(page.locator("#verdict")).to_contain_text("changes nothing yet")
    text = page.locator("#yaml").input_value()
    page.locator("#yaml").fill(text.replace("night shift", "day shift") + "seed: 3\n")
    expect(page.locator("#verdict")).to_contain_text("Changed fields: name, seed")
    page.locator("#yaml").fill(text.replace("init: -6.0", "init: -5.0"))
    expect(page.locator("#verdict")).to_contain_text("cannot change in a fork")
    expect(page.locator("#submit")).to_be_disabled()
    page.locator("#yaml").fill(text.replace("night shift", "day shift") + "seed: 3\n")
    expect(page.locator("#verdict")).to_contain_text("Changed fields: name, seed")
    page.get_by_label("Start at meta-iteration").fill("7")
    page.get_by_role("button", name="Fork").click()
    page.wait_for_url(lambda url: not url.endswith("/fork"))
    expect(page.locator("h1")).to_have_text("day shift")
    expect(page.locator("#facts")).to_contain_text("fork of")
    job = do(lambda store: store.get(page.url.rpartition("/")[2]))
    assert job.forked_from == f"{jobs['night shift']}@7"
    assert job.spec.seed == 3
    do(lambda store: store.cancel(job.id))


def test_chosen_jobs_are_compared(page: Page, server: Server, jobs: dict[str, str]) -> None:
    page.goto(server.url)
    button = page.get_by_role("button", name="Compare")
    expect(button).to_be_disabled()
    for name in ("clean digits", "night shift"):
        page.get_by_label(f"Compare {name}").check()
    button.click()
    expect(page.locator("h1")).to_have_text("Compare")
    expect(page.locator("job-chart .main-svg").first).to_be_visible()
    assert page.locator("job-chart .scatterlayer .trace").count() == 2
    fields = page.locator("section", has_text="Spec differences").locator("th[scope=row]")
    expect(fields.first).to_be_visible()
    assert "hyperparameters[0].kind" in fields.all_text_contents()
    assert "training.steps" not in fields.all_text_contents()


def test_a_lost_connection_is_shown_and_comes_back_by_itself(
    browser: Browser, redis_url: str, do: Do[Any], jobs: dict[str, str]
) -> None:
    server = Server(redis_url)
    server.start()
    trouble = Trouble(expected=("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY"))
    job_id = jobs["mnist, per weight"]
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
        expect(overview.locator(f"#row-{job_id} .chip")).to_have_text("pausing")
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
        expect(page.locator("#wrong")).to_contain_text("not known")
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{server.url}/?status=failed")
        expect(page.locator("tbody tr")).to_have_count(1)
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{server.url}/sign-in")
        page.goto(server.url)
        assert "/sign-in" in page.url
        page.goto(f"{server.url}/sign-in#ticket={api_keys.issue_ticket(key)}")
        page.wait_for_url(f"{server.url}/")
        expect(page.locator("#live")).to_have_text("live")
        assert "ticket" not in page.evaluate("location.href")
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


class Opened:
    """Measures one visit with an empty cache: seconds until the first chart or last row is drawn,
    CPU seconds of browser and service, bytes received, and layout shift."""

    def __init__(self, browser: Browser, url: str, until: str) -> None:
        trouble = Trouble()
        with browsers.window(browser, trouble) as (context, page):
            session = context.new_cdp_session(page)
            session.send("Network.enable")
            session.send("Performance.enable")
            sizes: dict[str, float] = {}
            names: dict[str, str] = {}
            session.on(
                "Network.responseReceived",
                lambda event: names.update({event["requestId"]: event["response"]["url"]}),
            )
            session.on(
                "Network.loadingFinished",
                lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}),
            )
            began, served = time.monotonic(), time.process_time()
            page.goto(url, wait_until="commit")
            expect(page.locator(until).first).to_be_visible()
            self.seconds = time.monotonic() - began
            metrics = session.send("Performance.getMetrics")["metrics"]
            (spent,) = (each["value"] for each in metrics if each["name"] == "ProcessTime")
            self.work_s = time.process_time() - served + spent
            page.wait_for_timeout(500)
            self.bytes = sum(
                size for key, size in sizes.items() if "plotly.min.js" not in names.get(key, "")
            )
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
    opens_quickly(browser, f"{server.url}/jobs/{job_id}", "job-chart .main-svg")


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
    opens_quickly(browser, f"{server.url}/jobs/{job_id}", "job-chart .main-svg")
    with browsers.window(browser, Trouble()) as (_, page):
        page.goto(f"{server.url}/jobs/{job_id}")
        settled(page)
        expect(page.locator('job-chart[name="movers"] .main-svg').first).to_be_visible()
