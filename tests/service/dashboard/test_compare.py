"""Tests that groups are folded and compared, and that learned values lie side by side."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from drmad_service.store import Store
from drmad_service.store.layout.state_machine import Action
from tests.browser import Server
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do

GROUP = "rates & seeds"


@pytest.fixture(scope="module")
def group(do: Do[Any], jobs: dict[str, str]) -> list[str]:
    """Two settings of two seeds each, of which those at 0.1 are worse by 0.05."""

    async def made(store: Store) -> list[str]:
        ids = []
        for rate, worse in (("0.01", 0.0), ("0.1", 0.05)):
            for seed in range(2):
                tags = {"group": GROUP, "sweep.training.learning_rate": rate}
                wanted = gallery.spec(f"{rate}, {seed}", 6, seed=seed, tags=tags, priority=98)
                lease = await gallery.running(store, wanted)
                floor = 0.3 + worse + 0.02 * seed
                await gallery.commit(store, lease, range(6), 6, floor=floor)
                await store.act(lease, Action.SUCCEED, "iterations", "completed")
                ids.append(lease.job_id)
        return ids

    found: list[str] = do(made)
    return found


def test_a_group_is_one_row_until_it_is_opened(
    page: Page, server: Server, group: list[str]
) -> None:
    page.goto(server.url)
    button = page.get_by_role("button", name=GROUP)
    row = page.locator("tr.folded")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("group of 4 jobs, 2 settings")
    expect(row.locator("td.c-best")).to_contain_text(" to ")
    expect(page.locator(f"#row-{group[0]}")).to_be_hidden()
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    for job in group:
        expect(page.locator(f"#row-{job}")).to_be_visible()
    page.reload()
    expect(page.locator(f"#row-{group[0]}")).to_be_visible()
    page.get_by_role("link", name="Best loss").click()
    expect(page.locator("tr.folded")).to_have_count(1)
    expect(page.locator(f"#row-{group[0]}")).to_be_visible()


def test_the_settings_of_a_group_have_means_intervals_and_changes(
    page: Page, server: Server, group: list[str]
) -> None:
    page.goto(server.url)
    page.get_by_role("link", name="Compare settings").click()
    rows = page.locator("section[aria-labelledby=groups-title] tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("training.learning_rate = 0.01")
    expect(rows.nth(0)).to_contain_text("2 of 2")
    means = [float(text) for text in rows.locator("td:nth-child(4)").all_text_contents()]
    assert means[1] - means[0] == pytest.approx(0.05, abs=1e-3)
    change = 100 * (means[1] / means[0] - 1)
    assert float(rows.nth(1).locator("td").last.inner_text().rstrip(" %")) == pytest.approx(
        change, abs=0.1
    )


def test_learned_values_of_two_jobs_are_points_with_their_rank_correlation(
    page: Page, server: Server, jobs: dict[str, str], group: list[str]
) -> None:
    address = "&".join(f"job={job}" for job in group[:3])
    page.goto(f"{server.url}/compare?{address}")
    expect(page.locator("section[aria-labelledby=results] tbody tr").nth(1)).to_contain_text("%")
    chart = page.locator('job-chart[name="pair-l2"]')
    chart.scroll_into_view_if_needed()
    expect(chart).to_have_attribute("data-state", "drawn")
    expect(chart.locator(".points path")).to_have_count(164)
    options = page.get_by_label("against")
    expect(options.locator("option")).to_have_count(2)
    expect(options.locator("option").first).to_contain_text("rank correlation 1")
    options.select_option(index=1)
    expect(chart).to_contain_text(group[2][-6:])


def test_a_search_shows_its_trials_as_lines_and_what_matters(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    page.goto(f"{server.url}/jobs/{jobs['digits, two replicas']}")
    for name in ("search_lines", "importance"):
        chart = page.locator(f'job-chart[name="{name}"]')
        chart.scroll_into_view_if_needed()
        expect(chart).to_have_attribute("data-state", "drawn")
    expect(page.locator('job-chart[name="search_lines"] .xtick text')).to_have_text(
        ["learning_rate", "init", "validation loss"]
    )
    expect(page.locator('job-chart[name="importance"] .ytick')).to_have_count(2)


def test_the_cluster_shows_reservations_by_node_tenants_and_its_use(
    page: Page, server: Server, do: Do[Any], jobs: dict[str, str]
) -> None:
    do(lambda store: store.sample_use())
    page.goto(f"{server.url}/cluster")
    chart = page.locator('job-chart[name="use"]')
    chart.scroll_into_view_if_needed()
    expect(chart).to_have_attribute("data-state", "drawn")
    expect(chart).to_contain_text("running jobs")
    tenants = page.locator("section[aria-labelledby=tenants-title] tbody tr")
    expect(tenants).to_have_count(1)
    expect(tenants).to_contain_text("local")
    nodes = page.locator("section[aria-labelledby=nodes] tbody tr")
    for node in range(2):  # its replicas are spread
        expect(nodes.nth(node)).to_contain_text("1 of 16")
        expect(nodes.nth(node)).to_contain_text("digits, two replicas")
    expect(nodes.nth(2)).to_contain_text("offline")
