"""Tests charts of lines in a real browser: what they say, and that an update appends to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect

from drmad_client.plots import palette, panels
from drmad_service.store import Lease, Store
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do, settled

MOST = 100
COLOUR_AT = """({ view }, [panel, number, point]) => {
    const plot = view.plots[panel], { x, y } = view.panels[panel].traces[number];
    const [left, top] = [plot.valToPos(x[point], "x", true), plot.valToPos(y[point], "y", true)];
    const copy = document.createElement("canvas").getContext("2d");
    copy.drawImage(plot.ctx.canvas, -Math.round(left), -Math.round(top));
    return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""
"""Evaluated on a chart: the colour of its canvas at a point of one of its lines."""


@dataclass
class Running:
    """A job that runs; each commit is one more meta-iteration on its page."""

    url: str
    advance: Callable[[int], None]


@pytest.fixture
def running(server: Server, do: Do[Any], jobs: dict[str, str]) -> Iterator[Running]:
    done = 0

    async def begin(store: Store) -> Lease:
        return await gallery.running(store, gallery.spec("lines", MOST, priority=97))

    lease: Lease = do(begin)

    def advance(count: int) -> None:
        nonlocal done
        do(lambda store: gallery.commit(store, lease, range(done, done + count), MOST))
        done += count

    advance(6)
    yield Running(f"{server.url}/jobs/{lease.job_id}", advance)
    do(lambda store: store.cancel(lease.job_id))


def points(chart: Locator) -> Locator:
    return chart.locator("[data-points]")


def test_an_update_appends_to_the_same_plots_and_keeps_zoom_and_hidden_lines(
    page: Page, running: Running
) -> None:
    page.goto(running.url)
    losses = page.locator('job-chart[name="losses"]')
    expect(points(losses)).to_have_attribute("data-points", "6")
    losses.get_by_role("button", name="training").click()
    expect(losses.get_by_role("button", name="training")).to_have_attribute("aria-pressed", "false")
    over = losses.locator(".u-over").first
    box = over.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 20)
    page.mouse.up()
    zoom = losses.evaluate("({ view }) => view.zoom")
    assert zoom == pytest.approx([2, 4], abs=0.05)
    canvases = losses.locator("canvas")
    assert canvases.count() == 2
    canvases.evaluate_all("(all) => all.forEach((canvas) => { canvas.isFirst = true; })")
    for done in range(7, 12):
        running.advance(1)
        expect(points(losses)).to_have_attribute("data-points", str(done))
    kept = canvases.evaluate_all("(all) => all.filter((canvas) => canvas.isFirst).length")
    assert (kept, canvases.count()) == (2, 2)
    for panel in range(2):
        scale = losses.evaluate("({ view }, at) => view.plots[at].scales.x", panel)
        assert [scale["min"], scale["max"]] == zoom
    names = losses.evaluate("({ view }) => view.panels[0].traces.map(({ name }) => name)")
    assert "training" not in names
    assert "validation" in names
    over.dblclick()
    assert losses.evaluate("({ view }) => view.plots[1].scales.x.max") == 11


def test_a_chart_out_of_view_is_not_drawn_until_it_is_back(page: Page, running: Running) -> None:
    page.goto(running.url)
    settled(page)
    losses, memory = (page.locator(f'job-chart[name="{name}"]') for name in ("losses", "memory"))
    expect(points(memory)).to_have_attribute("data-points", "6")
    running.advance(3)
    expect(points(losses)).to_have_attribute("data-points", "9")
    expect(page.locator("#iteration")).to_have_text("9")
    assert points(memory).get_attribute("data-points") == "6"
    memory.scroll_into_view_if_needed()
    expect(points(memory)).to_have_attribute("data-points", "9")


def test_lines_lie_where_their_values_are_in_the_colours_of_the_theme(
    page: Page, running: Running
) -> None:
    page.goto(running.url)
    losses = page.locator('job-chart[name="losses"]')
    expect(points(losses)).to_have_attribute("data-points", "6")
    names = losses.evaluate("({ view }) => view.panels[0].traces.map(({ name }) => name)")
    line = names.index("validation, smoothed")
    drawn = losses.evaluate(COLOUR_AT, [0, line, 1])
    assert drawn == pytest.approx([0x2F, 0x74, 0xB8], abs=24)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    dark = losses.evaluate(COLOUR_AT, [0, line, 1])
    assert dark == pytest.approx([0x5A, 0xA2, 0xE6], abs=24)


def test_a_chart_is_read_with_the_pointer_the_keyboard_and_by_its_name(
    page: Page, running: Running
) -> None:
    page.goto(running.url)
    losses = page.locator('job-chart[name="losses"]')
    expect(points(losses)).to_have_attribute("data-points", "6")
    traces = losses.evaluate("({ view }) => view.figure.data")
    values = {trace["name"]: trace["y"] for trace in traces if trace["name"].startswith("train")}
    plots = losses.locator(".plots")
    name = plots.get_attribute("aria-label") or ""
    first, last = values["training"][0], values["training"][-1]
    assert name.startswith("Losses and errors, over the meta-iteration.")
    assert f"training: {first} to {last};" in name
    said = losses.get_by_role("status")
    expect(said).to_be_hidden()
    plots.focus()
    page.keyboard.press("End")
    expect(said.locator("strong")).to_have_text("meta-iteration 6")
    expect(said).to_contain_text(f"training: {last}")
    page.keyboard.press("ArrowLeft")
    expect(said.locator("strong")).to_have_text("meta-iteration 5")
    page.keyboard.press("ArrowDown")
    expect(said).to_contain_text("test error: ")
    page.keyboard.press("Escape")
    expect(said).to_be_hidden()
    over = losses.locator(".u-over").first
    over.hover(position={"x": 2, "y": 20})
    expect(said.locator("strong")).to_have_text("meta-iteration 1")
    expect(said).to_contain_text(f"training: {first}")
    running.advance(1)
    expect(points(losses)).to_have_attribute("data-points", "7")
    expect(said).to_contain_text(f"training: {first}")  # of the same panel


def test_a_page_with_lines_alone_loads_no_plotly(
    browser: Browser, server: Server, jobs: dict[str, str], running: Running
) -> None:
    trouble = Trouble()
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    with browsers.window(browser, trouble, width=1280, height=700) as (_, page):
        page.on("request", note)
        page.goto(f"{server.url}/cluster")
        settled(page)
        page.goto(running.url)
        expect(page.locator('job-chart[name="losses"]')).to_have_attribute("data-state", "drawn")
        assert any("uplot" in address for address in asked)
        assert not any("plotly.min.js" in address for address in asked)
        movers = page.locator('job-chart[name="movers"]')  # bars
        movers.scroll_into_view_if_needed()
        expect(movers).to_have_attribute("data-state", "drawn")
        assert any("plotly.min.js" in address for address in asked)
    assert trouble.found == []


def test_marks_of_the_best_and_of_probes_have_their_signs(
    page: Page, server: Server, jobs: dict[str, str]
) -> None:
    page.goto(f"{server.url}/jobs/{jobs['night shift']}")
    losses = page.locator('job-chart[name="losses"]')
    expect(losses).to_have_attribute("data-state", "drawn")
    expect(losses.locator(".legend button")).to_have_text(
        [
            "validation, smoothed",
            "training",
            "best",
            "fidelity probe",
            "validation error",
            "test error",
        ]
    )
    names = losses.evaluate("({ view }) => view.panels[0].traces.map(({ name }) => name)")
    star = losses.evaluate(COLOUR_AT, [0, names.index("best"), 0])
    assert star == pytest.approx([0x89, 0x26, 0x20], abs=24)


def test_a_value_between_gaps_is_a_point(page: Page, server: Server, jobs: dict[str, str]) -> None:
    page.goto(f"{server.url}/jobs/{jobs['night shift']}")
    losses = page.locator('job-chart[name="losses"]')
    expect(losses).to_have_attribute("data-state", "drawn")
    line = panels.line([1, 2, 3, 4, 5], [1.0, None, 2.0, None, 1.0], "loss", 1, **palette.stroke(0))
    losses.evaluate(
        "(chart, figure) => chart.show(figure)", panels.stacked([("loss", [line], {})], False)
    )
    assert losses.evaluate(COLOUR_AT, [0, 0, 2]) == pytest.approx([0x2F, 0x74, 0xB8], abs=24)
