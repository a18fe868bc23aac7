"""A real browser for the dashboard's tests: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Response,
    sync_playwright,
)

from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings

CHROMIUM = next(
    (
        path
        for path in (Path("/usr/bin/chromium-headless-shell"), Path("/usr/bin/chromium"))
        if path.exists()
    ),
    None,
)
"""The one without a window of its own draws a page in half the time of the processor."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A debugger that listens, as Playwright's does, has V8 parse plotly's whole script twice more
    # for the stack of an exception that the script catches: 0.5 s that no reader's browser spends.
    "--js-flags=--no-enable-lazy-source-positions",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; without it the test is skipped, except in CI."""
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium in /usr/bin: run deploy/install-browser.sh")
        pytest.skip("no chromium in /usr/bin; deploy/install-browser.sh brings it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield browser
        browser.close()


BUSY = "was preloaded using link preload but not used within a few seconds"
"""What the browser says of a page on a machine with too much to do; it is no fault of the page."""
NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
"""Likewise where other tests add and remove network interfaces."""


@dataclass
class Trouble:
    """What a page must not do: say something in the console, or ask for what it does not get."""

    found: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def watch(self, page: Page) -> None:
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self._note("error", str(error)))
        page.on("response", lambda response: self._failed(response))

    def _failed(self, response: Response) -> None:
        if response.status >= 400:
            self._note("error", f"{response.status} {response.url}")

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(
            words in text for words in (BUSY, NETWORK_CHANGED, *self.expected)
        ):
            self.found.append(text)


@contextlib.contextmanager
def window(
    browser: Browser,
    trouble: Trouble,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
) -> Iterator[tuple[BrowserContext, Page]]:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    trouble.watch(page)
    yield context, page
    context.close()


def editor(page: Page) -> Locator:
    """The text of the job that is edited; the hidden #yaml has the same as its value."""
    return page.get_by_role("textbox", name="YAML")


class Server:
    """The API on a port of loopback, in a thread; it can be stopped and started again."""

    def __init__(self, redis_url: str, local_key: str | None = None, **settings: Any) -> None:
        self._settings = ApiSettings(redis_url=redis_url, local_key=local_key, **settings)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = uvicorn.Config(
            create_app(self._settings),
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()


PIXELS = """async (image) => {
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
    return [...data].filter((_, place) => place % 4 === 0);
}"""
"""Evaluated on an image: the red level of each of its pixels, row by row."""
