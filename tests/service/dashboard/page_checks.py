"""What several tests of the dashboard need: waits for charts, checks of a page, its pictures."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Coroutine
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Locator, Page, expect

from drmad_service.store import Store

T = TypeVar("T")

# Runs a coroutine on the store of the test.
Do = Callable[[Callable[[Store], Coroutine[Any, Any, T]]], T]

IMAGES = os.environ.get("DRMAD_IMAGES")
"""Where the pictures of the documentation go: `make images`."""


def settled(page: Page) -> None:
    """Waits until every chart is drawn or empty, and until the form of an editor is there."""
    page.wait_for_load_state("load")
    if page.locator("#form").count():
        expect(page.locator("#form details").first).to_be_visible()
        expect(page.locator("#verdict")).not_to_be_empty()
    for chart in page.locator("job-chart").all():
        chart.scroll_into_view_if_needed()
        expect(chart).to_have_attribute("data-state", re.compile("^(drawn|empty)$"))
    page.mouse.wheel(0, -100_000)
    page.wait_for_timeout(150)


def fits(page: Page, name: str) -> None:
    """Charts follow the width of the window with a delay, the longer the more there are."""
    for _ in range(120):
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wide <= 0:
            return
        page.wait_for_timeout(250)
    pytest.fail(f"{name} is {wide} pixels too wide")


def accessible(page: Page, name: str, only: str | None = None) -> None:
    """No serious fault by the rules of axe, or by the one rule `only`."""
    page.evaluate(_axe())
    report = page.evaluate("(rules) => axe.run(rules)", {"runOnly": [only]} if only else {})
    serious = [
        (fault["id"], [node["html"][:200] for node in fault["nodes"]])
        for fault in report["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert serious == [], name


def looked_at(page: Page, name: str, part: Locator) -> None:
    """Checks a part of a page in light, in dark and on a phone, and takes its pictures."""
    for scheme, width in (("light", 1280), ("dark", 1280), ("narrow", 390)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.set_viewport_size({"width": width, "height": 900})
        fits(page, f"{name}, {scheme}")
        if scheme != "narrow":  # the rules do not depend on the width
            accessible(page, f"{name}, {scheme}", "color-contrast" if scheme == "dark" else None)
        if IMAGES:
            height = page.evaluate("document.documentElement.scrollHeight")
            page.set_viewport_size({"width": width, "height": height})  # the bar stays on top
            page.wait_for_timeout(1500)  # charts are drawn again in other colours and widths
            part.screenshot(path=Path(IMAGES) / f"{name}-{scheme}.png")


@functools.cache
def _axe() -> str:
    return resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
