"""The API as a process: what waits when it ends is answered."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from drmad_service.api.auth.api_keys import Access, Scope
from tests.end_to_end.running import free_port

LONGEST_S = 60.0


@contextmanager
def running(redis_url: str, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "drmad_client", "serve", "--redis-url", redis_url]
    with subprocess.Popen([*command, "--port", str(port), *flags]) as process:
        try:
            until(lambda: process.poll() is not None or httpx.get(f"{url}/readyz").is_success)
            assert process.poll() is None
            yield process, url
        finally:
            process.kill()


def until(holds: Any) -> None:
    deadline = time.monotonic() + LONGEST_S
    while True:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_waits_is_answered_when_the_process_ends(redis_url: str, body: dict[str, Any]) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    with running(redis_url) as (process, url), ThreadPoolExecutor() as pool:
        path = f"{url}/v1/jobs/{httpx.post(f'{url}/v1/jobs', json=body).json()['id']}"
        etag = httpx.get(path).headers["etag"]
        waiting = {"If-None-Match": etag, "Prefer": "wait=50"}
        first_event = threading.Event()

        def stream() -> None:
            """To its end, which must be a clean one."""
            with httpx.stream("GET", f"{path}/events", timeout=LONGEST_S) as events:
                for line in events.iter_lines():
                    if line == "event: status":
                        first_event.set()

        polls = [pool.submit(httpx.get, path, headers=waiting, timeout=LONGEST_S) for _ in range(3)]
        streamed = pool.submit(stream)
        assert first_event.wait(LONGEST_S)
        until(lambda: "drmad_event_streams 4.0" in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        assert [poll.result().status_code for poll in polls] == [304] * 3
        streamed.result()
        assert process.wait(LONGEST_S) in (0, -signal.SIGTERM)


def test_a_session_cookie_is_secure_behind_a_proxy_that_is_trusted(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    _, text = asyncio.run(_key(redis_url))
    sent = {"X-Forwarded-Proto": "https"}
    with running(redis_url, "--trusted-proxy", "127.0.0.3", "--trusted-proxy", "10.0.0.0/8") as (
        _,
        url,
    ):
        for address, trusted in (("127.0.0.1", True), ("127.0.0.2", False), ("127.0.0.3", True)):
            transport = httpx.HTTPTransport(local_address=address)
            with httpx.Client(transport=transport, base_url=url, headers=sent) as proxy:
                answer = proxy.post("/sign-in", json={"key": text})
            assert ("secure" in answer.headers["set-cookie"].lower()) == trusted


async def _key(redis_url: str) -> Any:
    async with AsyncRedis.from_url(redis_url) as redis:
        return await Access(redis).create("a", Scope.READ)
