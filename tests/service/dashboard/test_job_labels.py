"""Tests what a reader may change of a job: labels, archive, retraining without the lowest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do


def test_name_note_and_tags_change_on_the_page_and_the_job_is_archived(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    job = jobs["a mistake"]
    page.goto(f"{server.url}/jobs/{job}")
    page.get_by_role("button", name="Edit name, note and tags").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill("renamed <b>")
    dialog.get_by_label("Note").fill("two\nlines")
    dialog.get_by_label("Tags").fill("team: audio\nurl: http://x:1")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator("h1")).to_have_text("renamed <b>")
    expect(page.locator("#note")).to_contain_text("two\nlines")
    expect(page.locator("#facts .tag").get_by_text("url: http://x:1")).to_be_visible()
    page.get_by_role("button", name="Edit name, note and tags").click()
    dialog.get_by_label("Tags").fill("team: audio")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator("#facts .tag")).to_have_text(["team: audio"])
    assert do(lambda store: store.get(job)).tags == {"team": "audio"}
    page.get_by_role("button", name="Archive").click()
    expect(page.locator("#facts")).to_contain_text("archived")
    page.goto(server.url)
    expect(page.locator(f"#row-{jobs['clean digits']}")).to_be_visible()
    expect(page.locator(f"#row-{job}")).to_have_count(0)
    page.get_by_role("link", name="Archived").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator(f"#row-{job} a.name").click()
    page.get_by_role("button", name="Restore").click()
    expect(page.get_by_role("button", name="Archive")).to_be_visible()


def test_selected_jobs_are_tagged_and_archived_together(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    async def ended(store: Store) -> list[str]:
        made = [(await store.create(gallery.spec(f"batch {n}")))[0].id for n in range(2)]
        for job in made:
            await store.cancel(job)
        return made

    made = do(ended)
    page.goto(f"{server.url}/?q=batch")
    for n in range(2):
        page.get_by_label(f"Compare batch {n}").check()
    page.get_by_role("button", name="Tag selected").click()
    page.get_by_label("Tag, as name: value").fill("round: 7")
    page.get_by_role("button", name="Tag jobs").click()
    expect(page.locator("#toasts")).to_contain_text("Tagged 2 jobs")
    expect(page.locator("td.c-tags a")).to_have_text(["round: 7", "round: 7"])
    page.get_by_role("button", name="Archive selected").click()
    page.get_by_role("button", name="Archive jobs").click()
    expect(page.locator("#toasts")).to_contain_text("Archived 2 jobs")
    expect(page.locator("tbody tr")).to_have_count(0)

    async def removed(store: Store) -> list[bool]:
        archived = [(await store.get(job)).archived_at is not None for job in made]
        for job in made:
            await store.delete(job)
        return archived

    assert do(removed) == [True, True]


def test_a_retraining_without_the_lowest_is_asked_for_with_its_share(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    weights = "sample_weight"

    async def create(store: Store) -> str:
        wanted = gallery.spec("weighted", 3, kind=weights, priority=95)
        lease = await gallery.running(store, wanted, size=1000)
        await gallery.commit(store, lease, range(3), 3, weights, size=1000)
        return lease.job_id

    job = do(create)
    page.route("**/examples?*", lambda route: route.fulfill(json={"examples": {}, "error": ""}))
    page.goto(f"{server.url}/jobs/{job}")
    page.get_by_label("Leave out the lowest").fill("15")
    page.get_by_role("button", name="Retrain without them").click()
    expect(page.locator("#toasts")).to_contain_text("Retraining requested")
    expect(page.locator("#retraining")).to_contain_text("queued")
    (asked,) = do(lambda store: store.retrainings(job))
    assert asked.asked.drop_lowest == 0.15


@pytest.fixture(scope="module")
def locked(redis_url: str, jobs: dict[str, str], do: Do[Any]) -> Iterator[Server]:
    """A service that needs keys, on this store: no test without keys can follow."""
    server = Server(redis_url, "drmad_" + "s" * 43)
    server.start()
    yield server
    server.stop()


def _key(do: Do[Any], redis_url: str, scope: Scope) -> tuple[str, str]:
    async def made(_: Store) -> tuple[str, str]:
        async with connect(redis_url) as redis:
            key, text = await Access(redis).create("local", scope)
            return key.id, text

    found: tuple[str, str] = do(made)
    return found


@pytest.mark.parametrize("scope", [Scope.READ, Scope.SUBMIT, Scope.MANAGE])
def test_buttons_on_others_jobs_are_shown_to_keys_that_may_use_them(
    browser: Browser, locked: Server, redis_url: str, do: Do[Any], scope: Scope
) -> None:
    owner, _ = _key(do, redis_url, Scope.SUBMIT)
    reader, text = _key(do, redis_url, scope)

    async def create(store: Store) -> list[str]:
        return [
            (await store.create(gallery.spec(f"{scope} {by}", priority=-90), by=by))[0].id
            for by in (owner, reader)
        ]

    theirs, mine = do(create)
    trouble = Trouble()
    with browsers.window(browser, trouble) as (_, page):
        page.goto(f"{locked.url}/sign-in")
        page.get_by_label("Key").fill(text)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{locked.url}/")
        changing = page.get_by_role("button", name="Cancel", exact=True)
        editing = page.get_by_role("button", name="Edit name, note and tags")
        for job, may in ((theirs, scope >= Scope.MANAGE), (mine, scope >= Scope.SUBMIT)):
            page.goto(f"{locked.url}/jobs/{job}")
            expect(page.locator("h1")).to_contain_text(str(scope))
            assert (changing.count(), editing.count()) == (int(may), int(may))
            expect(page.get_by_role("link", name="Duplicate")).to_have_count(
                int(scope >= Scope.SUBMIT)
            )
        page.goto(f"{locked.url}/?q={scope}")
        for by in (owner, reader):
            page.get_by_label(f"Compare {scope} {by}").check()
        bulk = page.locator('[data-bulk="cancel"]')
        if scope is Scope.READ:
            expect(bulk).to_have_count(0)
        else:
            expect(bulk).to_have_text(
                "Cancel selected" if scope is Scope.MANAGE else "Cancel 1 of 2"
            )
    assert trouble.found == []

    async def cancel(store: Store) -> None:
        for job in (theirs, mine):
            await store.cancel(job)

    do(cancel)
