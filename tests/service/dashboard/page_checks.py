"""What several tests of the dashboard need: the type of `do`, and a wait for the charts."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from playwright.sync_api import Page, expect

from drmad_service.store import Store

T = TypeVar("T")

# Runs a coroutine on the store of the test.
Do = Callable[[Callable[[Store], Coroutine[Any, Any, T]]], T]


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
