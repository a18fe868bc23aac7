"""Whoever tries keys is slowed down and logged; whoever has a key never waits for them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from drmad_service.api.app import create_app
from drmad_service.api.auth import failed_attempts
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.api.auth.failed_attempts import AT_ONCE, FREE_ATTEMPTS, FailedAttempts
from drmad_service.settings import ApiSettings

pytestmark = pytest.mark.anyio

DELAY_S = 0.1


async def test_guesses_are_delayed_and_logged_and_a_key_is_not(
    redis: Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, text = await Access(redis).create("a", Scope.READ)
    settings = ApiSettings(redis_url=redis_url, local_key="k" * 40, failed_key_delay_s=3600.0)
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app, client=("203.0.113.7", 1))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        ways: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "/v1/jobs", {"headers": {"Authorization": "Bearer drmad_guess"}}),
            ("GET", "/v1/jobs", {"headers": {"Cookie": "drmad_session=guess"}}),
            ("POST", "/sign-in", {"json": {"key": "guess"}}),
            ("POST", "/sign-in", {"json": {"ticket": "1.guess"}}),
        ]
        for number in range(FREE_ATTEMPTS):
            method, path, sent = ways[number % 4]
            assert (await client.request(method, path, **sent)).status_code == 401
        waiting = [
            asyncio.create_task(client.request(method, path, **sent)) for method, path, sent in ways
        ]
        keyed = {"Authorization": f"Bearer {text}"}
        for _ in range(20):
            assert (await client.get("/v1/jobs", headers=keyed)).status_code == 200
            assert (await client.get("/v1/jobs")).status_code == 401  # it tries no key
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    (warning,) = (r for r in caplog.records if r.name == failed_attempts.__name__)
    assert warning.levelno == logging.WARNING
    assert "203.0.113.7" in warning.getMessage()
    assert "guess" not in warning.getMessage()


async def test_an_address_gets_a_few_answers_for_each_delay() -> None:
    now = 0.0
    attempts = FailedAttempts(DELAY_S, clock=lambda: now)
    began = time.monotonic()
    await asyncio.gather(*(attempts.note("198.51.100.1") for _ in range(FREE_ATTEMPTS)))
    rounds = 3
    addresses = [f"2001:db8::{number:x}" for number in range(FREE_ATTEMPTS + rounds * AT_ONCE)]
    await asyncio.gather(*map(attempts.note, addresses))  # all of one network
    assert time.monotonic() - began >= rounds * DELAY_S
    now = failed_attempts.WINDOW_S + 1.0
    async with asyncio.timeout(60.0):
        for _ in range(FREE_ATTEMPTS):
            await FailedAttempts(3600.0, clock=lambda: now).note("2001:db8::1")
            await attempts.note("2001:db8::1")
