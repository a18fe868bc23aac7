"""Tests the editor of new jobs and forks in a real browser."""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Locator, Page, expect

from drmad_client.spec import capabilities
from tests import browser as browsers
from tests.browser import Server, Trouble, editor
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do


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
    expect(verdict).to_contain_text("training.steps must be at least 1, got -4")
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
    offered = capabilities.describe()
    for field, part, key in (
        ("problem.model", "models", "name"),
        ("problem.data", "data", "name"),
        ("hyperparameters.0", "hyperparameters", "kind"),
        ("hypergradient", "methods", "method"),
    ):
        for name in [described["name"] for described in offered[part]]:
            page.locator(f'[id="f.{field}.?"]').select_option(name)
            expect(page.locator("#yaml")).to_have_value(re.compile(rf"\b{key}: {name}\b"))
            expect(page.locator(f'[id="f.{field}.?"]')).to_have_value(name)


def test_a_job_is_submitted_paused_and_cancelled_by_the_keyboard_alone(
    page: Page, server: Server, do: Do[Any]
) -> None:
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    yaml = editor(page)
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
        if wanted.evaluate("(element) => element.getRootNode().activeElement === element"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{wanted} is not reached by {key}")


def test_data_of_this_machine_are_uploaded_and_named_in_the_job(page: Page, server: Server) -> None:
    file = io.BytesIO()
    np.savez(file, inputs=np.zeros((9, 2)), targets=np.arange(9) % 3)
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    page.get_by_label("Upload data").set_input_files(
        {"name": "mine.npz", "mimeType": "application/octet-stream", "buffer": file.getvalue()}
    )
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    expect(page.locator("#yaml")).to_have_value(re.compile(f"name: upload, data: sha256:{digest}"))
    expect(page.locator("#verdict")).to_contain_text("problem.data.train")


def test_a_table_is_uploaded_and_its_target_is_named_in_the_form(
    page: Page, server: Server
) -> None:
    page.goto(f"{server.url}/new")
    verdict, form = page.locator("#verdict"), page.locator("#form")
    expect(verdict).to_contain_text("can be submitted")
    content = b"area,price\n" + b"70,300.5\n" * 9
    file = {"name": "homes.csv", "mimeType": "text/csv", "buffer": content}
    page.locator("#data").set_input_files(file)  # type: ignore[arg-type]
    digest = hashlib.sha256(content).hexdigest()
    expect(page.locator("#yaml")).to_have_value(re.compile(f"name: table.*sha256:{digest}"))
    expect(verdict).to_contain_text("problem.data.target")
    target = form.locator('[id="f.problem.data.target"]')
    for written, text in (("price", "target: price,"), ('["price"]', r"target: \[price\],")):
        target.fill(written)
        target.press("Tab")
        expect(page.locator("#yaml")).to_have_value(re.compile(text))
        expect(target).to_have_value(written)
        expect(verdict).to_contain_text("can be submitted")


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
        editor(page).press_sequentially("# changed\n")
        expect(found).to_be_hidden()
    assert trouble.found == []


def test_the_proofs_of_a_preflight_are_shown_and_overridden_in_the_form(
    browser: Browser, server: Server
) -> None:
    trouble = Trouble()
    report = gallery.PREFLIGHT.model_dump_json()
    with browsers.window(browser, trouble) as (_, page):
        page.route(
            "**/v1/jobs?validate_only*",
            lambda route: route.fulfill(body=report, content_type="application/json"),
        )
        page.goto(f"{server.url}/new")
        page.get_by_role("button", name="Validate on a worker").click()
        found, results = page.locator("#found"), page.locator("#found .proofs .chip")
        expect(found).to_contain_text("Proofs failed; the job would not start")
        expect(results).to_have_text(["passed", "passed", "failed", "skipped", "passed"])
        page.locator(".form summary", has_text="Preflight").click()
        page.get_by_label("second derivatives").check()
        expect(page.locator("#yaml")).to_have_value(
            re.compile(r"preflight:\n  override:\n  - second_derivatives\n")
        )
        page.get_by_label("repeatable").check()
        page.get_by_label("repeatable").uncheck()
        expect(page.locator("#yaml")).not_to_have_value(re.compile("repeatable"))
        page.get_by_role("button", name="Validate on a worker").click()
        expect(found).to_contain_text("Proofs failed and are overridden")
        expect(results.nth(2)).to_have_text("failed, overridden")
        page.get_by_label("second derivatives").uncheck()
        expect(page.locator("#yaml")).not_to_have_value(re.compile("override"))
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
        editor(page).fill(text)
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
    editor(page).fill(text.replace("night shift", "day shift") + "seed: 3\n")
    expect(page.locator("#verdict")).to_contain_text("Changed fields: name, seed")
    editor(page).fill(text.replace("init: -6.0", "init: -5.0"))
    expect(page.locator("#verdict")).to_contain_text("cannot change in a fork")
    expect(page.locator("#submit")).to_be_disabled()
    editor(page).fill(text.replace("night shift", "day shift") + "seed: 3\n")
    expect(page.locator("#verdict")).to_contain_text("Changed fields: name, seed")
    page.get_by_label("Continue after meta-iteration").fill("7")
    page.get_by_role("button", name="Fork").click()
    page.wait_for_url(lambda url: not url.endswith("/fork"))
    expect(page.locator("h1")).to_have_text("day shift")
    expect(page.locator("#facts")).to_contain_text("fork of")
    job = do(lambda store: store.get(page.url.rpartition("/")[2]))
    assert job.forked_from == f"{jobs['night shift']}@7"
    assert job.spec.seed == 3
    do(lambda store: store.cancel(job.id))


def test_a_form_keeps_comments_and_what_was_typed_can_be_brought_back(
    page: Page, server: Server
) -> None:
    page.goto(f"{server.url}/new")
    yaml, verdict = page.locator("#yaml"), page.locator("#verdict")
    expect(verdict).to_contain_text("can be submitted")
    text = "# mine\n" + yaml.input_value()
    editor(page).fill(text)
    name = page.locator('[id="f.name"]')
    expect(verdict).to_contain_text("can be submitted")
    name.fill("by the form")
    name.press("Tab")
    expect(yaml).to_have_value(re.compile("^# mine\n(.*\n)*name: by the form", re.M))
    assert yaml.input_value().count("#") == text.count("#")
    page.reload()
    expect(page.locator("#toasts")).to_contain_text("draft is restored")
    expect(yaml).to_have_value(re.compile("name: by the form"))
    typed = yaml.input_value()
    page.locator("#example").select_option("digits-l2")
    expect(yaml).not_to_have_value(typed)
    page.get_by_role("button", name="Undo").click()
    expect(yaml).to_have_value(typed)
    page.get_by_role("button", name="Start again").click()
    expect(yaml).to_have_value(text.removeprefix("# mine\n"))
    page.reload()
    expect(page.get_by_role("button", name="Start again")).to_be_hidden()
