from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.api.middleware.slow_clients import MAX_HEADER_BYTES
from drmad_service.dashboard import assets
from drmad_service.job_limits import JobLimits
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from tests.service.api.serving import serving
from tests.service.api.test_api import problem

pytestmark = pytest.mark.anyio

KEY = "drmad_" + "k" * 43
BEARER = {"Authorization": f"Bearer {KEY}"}
TIMEOUT_S = 1.0
LONGEST_S = 120.0
"""A test that waits so long has found something that is not cut."""


@pytest.fixture
async def limited(redis: Redis, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    settings = ApiSettings(
        redis_url=redis_url,
        local_key=KEY,
        most_connections=6,
        most_streams_of_a_key=2,
        job_limits=JobLimits(steps=500, replicas=4, hyperparameters=1000),
        keep_alive_s=0.2,
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1", headers=BEARER
        ) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"training": {"steps": 501, "batch_size": 10}}, "training.steps", "at most 500 steps"),
        ({"replicas": {"count": 5}}, "replicas.count", "at most 4 replicas per job, got 5"),
        (
            {"hyperparameters": [{"kind": "sample_weight"}, {"kind": "l2", "per": "model"}]},
            "hyperparameters",
            "at most 1,000 hyperparameters per job, got 1,001",
        ),
    ],
)
async def test_a_larger_job_than_the_operator_takes_is_refused(
    limited: httpx.AsyncClient,
    store: Store,
    body: dict[str, Any],
    change: dict[str, Any],
    path: str,
    words: str,
) -> None:
    details = problem(await limited.post("/v1/jobs", json=body | change), 422, "invalid_fields")
    assert [e.path for e in details.errors] == [path]
    assert words in details.errors[0].message
    assert (await limited.post("/v1/jobs", json=body)).status_code == 201


async def test_so_many_streams_and_no_more(
    limited: httpx.AsyncClient, redis: Redis, store: Store, spec: JobSpec
) -> None:
    """Of a key, and of the service; a stream that ends gives its place back."""
    job, _ = await store.create(spec)
    other = {"Authorization": f"Bearer {(await Access(redis).create('x', Scope.ADMIN))[1]}"}
    waiting: list[asyncio.Task[httpx.Response]] = []

    async def held(count: int) -> None:
        while f"drmad_event_streams {count}.0" not in (await limited.get("/metrics")).text:
            await asyncio.sleep(0.01)

    def wait(headers: dict[str, str]) -> None:
        # Through this transport a stream is answered when it ends: with the job.
        events = limited.get(f"/v1/jobs/{job.id}/events", headers=headers)
        waiting.append(asyncio.create_task(events))

    async with asyncio.timeout(LONGEST_S):
        for count in (1, 2):
            wait({})
            await held(count)
        refused = await limited.get(f"/v1/jobs/{job.id}/events")
        assert "2 streams" in problem(refused, 429, "too_many_streams").detail
        assert int(refused.headers["retry-after"]) > 0
        polled = await limited.get(f"/v1/jobs/{job.id}", headers={"Prefer": "wait=30"})
        problem(polled, 429, "too_many_streams")
        assert (await limited.get(f"/v1/jobs/{job.id}")).is_success
        wait(other)
        await held(3)
        refused = await limited.get(f"/v1/jobs/{job.id}/events", headers=other)
        assert "3 streams" in problem(refused, 429, "too_many_streams").detail
        await store.cancel(job.id)
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 3
        await held(0)


async def test_a_stream_ends_when_its_key_is_revoked(
    limited: httpx.AsyncClient, redis: Redis, store: Store, spec: JobSpec
) -> None:
    job, _ = await store.create(spec, tenant="x")
    access = Access(redis)
    made, text = await access.create("x", Scope.READ)
    headers = {"Authorization": f"Bearer {text}"}
    events = asyncio.create_task(limited.get(f"/v1/jobs/{job.id}/events", headers=headers))
    async with asyncio.timeout(LONGEST_S):
        while "drmad_event_streams 1.0" not in (await limited.get("/metrics")).text:
            await asyncio.sleep(0.01)
        await access.revoke(made.id)
        assert (await events).status_code == 200
    assert (await store.get(job.id)).status == "queued"


@pytest.fixture(scope="module")
def server(redis_url: str) -> Iterator[tuple[str, int]]:
    """The service on a port, with a short timeout for slow clients."""
    with SyncRedis.from_url(redis_url) as redis:
        redis.flushall()
    settings = ApiSettings(redis_url=redis_url, local_key=KEY, slow_client_timeout_s=TIMEOUT_S)
    with serving(settings) as address:
        yield address


def connected(server: tuple[str, int]) -> socket.socket:
    return socket.create_connection(server, timeout=LONGEST_S)


def last_words(line: socket.socket) -> bytes:
    """What comes until the other side hangs up, which it must."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := line.recv(1 << 16):
            said += part
    return said


def dripping(line: socket.socket, part: bytes) -> threading.Thread:
    """Send a little, again and again, until the other side has enough."""

    def drip() -> None:
        with contextlib.suppress(OSError):
            while True:
                line.sendall(part)
                threading.Event().wait(0.05)

    thread = threading.Thread(target=drip)
    thread.start()
    return thread


def answers(server: tuple[str, int]) -> bool:
    return httpx.get(f"http://{server[0]}:{server[1]}/healthz", timeout=LONGEST_S).is_success


def test_who_says_nothing_is_hung_up_on(server: tuple[str, int]) -> None:
    with connected(server) as line:
        assert last_words(line) == b""
    assert answers(server)


def test_headers_that_come_too_slowly_are_not_waited_for(server: tuple[str, int]) -> None:
    lines = [connected(server) for _ in range(20)]
    drips = []
    for line in lines:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        drips.append(dripping(line, b"X-Slow: 1\r\n"))
    assert answers(server)
    assert [last_words(line) for line in lines] == [b""] * 20
    for line, drip in zip(lines, drips, strict=True):
        line.close()
        drip.join()


def test_headers_without_end_are_cut(server: tuple[str, int]) -> None:
    with connected(server) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        with contextlib.suppress(ConnectionError):
            line.sendall(b"X-Long: 1\r\n" * MAX_HEADER_BYTES)
        assert b"200 OK" not in last_words(line)
    assert answers(server)


def test_blank_lines_hold_no_line_open(server: tuple[str, int]) -> None:
    with connected(server) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        drip = dripping(line, b"\r\n")
        assert b"200 OK" in last_words(line)
    drip.join()


def test_a_body_that_comes_too_slowly_is_answered_408(server: tuple[str, int]) -> None:
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    with connected(server) as line:
        line.sendall(head.encode())
        drip = dripping(line, b" ")
        said = last_words(line)
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"body_too_slow" in said
    drip.join()
    assert answers(server)


def test_who_does_not_read_the_answer_is_hung_up_on(server: tuple[str, int]) -> None:
    path = assets.url("plotly.min.js")  # of several megabytes: more than lines and buffers hold
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(LONGEST_S)
        line.connect(server)
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        # Nothing is read: the server resets the connection, and the kernel reports an error.
        while line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            try:
                line.send(b"\0", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                break
            threading.Event().wait(0.05)
    assert answers(server)


def test_who_reads_and_sends_in_time_is_served(server: tuple[str, int], tmp_path: Path) -> None:
    """Longer than the timeout, but without a pause."""
    path = assets.url("plotly.min.js")
    with socket.socket() as line:
        line.settimeout(LONGEST_S)
        line.connect(server)
        line.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        )
        size = 0
        while part := line.recv(200_000):
            size += len(part)
            threading.Event().wait(TIMEOUT_S / 10)
    assert size > 4_000_000
