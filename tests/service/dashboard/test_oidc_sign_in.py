"""Sign-in by a provider on another site, in a browser: its rules of cookies are what this tries."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Browser, expect
from redis import Redis

from drmad_service.oidc_settings import OidcSettings
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.issuer import CLIENT, SECRET, Issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    provider = Issuer(f"http://localhost:{port}")  # another site than 127.0.0.1
    config = uvicorn.Config(
        provider.app, "localhost", port, log_config=None, lifespan="off", interface="asgi3"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield provider
    server.should_exit = True
    thread.join(10)


def test_the_provider_sends_a_user_back_to_the_page_that_was_asked_for(
    browser: Browser, redis_url: str, issuer: Issuer
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    oidc = OidcSettings(
        issuer=issuer.url, client_id=CLIENT, client_secret=SECRET, groups=("ml=vision:submit",)
    )
    server = Server(redis_url, open_without_keys=False, oidc=oidc)
    server.start()
    trouble = Trouble()
    try:
        with browsers.window(browser, trouble) as (_, page):
            page.goto(f"{server.url}/cluster")
            page.get_by_role("link", name="Sign in with localhost").click()
            page.wait_for_url(f"{server.url}/cluster")
            expect(page.get_by_role("button", name="Sign out")).to_be_visible()
            page.get_by_role("button", name="Sign out").click()
            page.wait_for_url(f"{server.url}/sign-in*")
            issuer.claims["groups"] = []
            trouble.expected = ("403",)
            page.get_by_role("link", name="Sign in with localhost").click()
            expect(page.locator("main")).to_contain_text("is in no group that may use drmad")
    finally:
        server.stop()
    assert trouble.found == []
