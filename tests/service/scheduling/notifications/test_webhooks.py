from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis

from drmad_client.records.events import Event
from drmad_client.spec.job import JobSpec
from drmad_client.spec.operation import NotifySpec
from drmad_service.api.app import create_app
from drmad_service.cancellation import cancel_and_wait
from drmad_service.scheduling.notifications.delivery import DeliveryOutcome
from drmad_service.scheduling.notifications.sending import keep_sending
from drmad_service.scheduling.notifications.webhooks import (
    Webhooks,
    deliver,
    is_public,
    signature,
)
from drmad_service.settings import ApiSettings, SchedulerSettings
from drmad_service.store import Store
from drmad_service.store.layout import keys
from tests.service.api.test_api import finished, problem

pytestmark = pytest.mark.anyio

SECRET = "s" * 32
LONGEST_S = 60.0


class Receiver(ThreadingHTTPServer):
    """Keeps the requests it receives, and answers with the given statuses."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quietly."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    yield from _running(Receiver())


def _running(receiver: Receiver) -> Iterator[Receiver]:
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield receiver
    receiver.shutdown()
    thread.join()
    receiver.server_close()


LOCAL = Webhooks(("127.0.0.1", "hooks.example"), private=True, secret=SECRET)
AT_ONCE = replace(LOCAL, retry_s=0.0)


@asynccontextmanager
async def sending(store: Store, policy: Webhooks = LOCAL) -> AsyncIterator[None]:
    task = asyncio.create_task(keep_sending(store, policy))
    try:
        async with asyncio.timeout(LONGEST_S):
            yield
    finally:
        await cancel_and_wait([task])


async def delivery_event(store: Store, job_id: str) -> Event:
    """The event of the delivery, as soon as the store has it."""
    while True:
        for event in await store.events(job_id):
            if event.type == "webhook":
                return event
        await asyncio.sleep(0.02)


def notifying(spec: JobSpec, url: str) -> JobSpec:
    return spec.model_copy(update={"notify": NotifySpec(webhook=url)})


async def test_the_end_of_a_job_is_notified_once_and_signed(
    store: Store, redis: Redis, spec: JobSpec, receiver: Receiver
) -> None:
    job_id = (await finished(store, notifying(spec, receiver.url))).job_id
    async with sending(store):
        event = await delivery_event(store, job_id)
    assert event.data == {
        "event": "end",
        "channel": "webhook",
        "host": "127.0.0.1",
        "outcome": "delivered",
        "attempts": 1,
        "message": "answered 204",
    }
    ((path, headers, body),) = receiver.received
    assert path == "/hook"
    job = json.loads(body)["job"]
    assert (json.loads(body)["type"], job["id"], job["status"]) == (
        "job.ended", job_id, "succeeded",
    )  # fmt: skip
    at = int(headers["Drmad-Signature"].split(",")[0].removeprefix("t="))
    assert headers["Drmad-Signature"] == signature(SECRET, at, body)
    assert signature(SECRET, at, body + b" ") != signature(SECRET, at, body)
    assert await redis.zcard(keys.NOTICES) == 0
    assert await redis.hget(keys.COUNTERS, "webhook:delivered") == b"1"


async def test_cancelled_while_queued_is_an_end_too_and_a_second_end_is_notified_again(
    store: Store, spec: JobSpec, receiver: Receiver
) -> None:
    job, _ = await store.create(notifying(spec, receiver.url))
    async with sending(store):
        await store.cancel(job.id)
        await delivery_event(store, job.id)
        ended = await store.get(job.id)
        longer = ended.spec.model_copy(
            update={"meta": ended.spec.meta.model_copy(update={"iterations": 9})}
        )
        await store.extend(ended, longer)
        await store.cancel(job.id)
        while len([e for e in await store.events(job.id) if e.type == "webhook"]) < 2:
            await asyncio.sleep(0.02)
    assert len(receiver.received) == 2


async def test_without_a_webhook_and_after_deletion_nothing_is_sent(
    store: Store, redis: Redis, spec: JobSpec, receiver: Receiver
) -> None:
    await finished(store, spec)
    assert await redis.zcard(keys.NOTICES) == 0
    job, _ = await store.create(notifying(spec, receiver.url))
    await store.cancel(job.id)
    assert await redis.zcard(keys.NOTICES) == 1
    await store.delete(job.id)
    assert await redis.zcard(keys.NOTICES) == 0
    assert not await redis.keys(f"*{job.id}*")


async def test_a_failing_receiver_is_asked_a_few_times(
    store: Store, spec: JobSpec, receiver: Receiver
) -> None:
    receiver.statuses = [500, 429, 204]
    job_id = (await finished(store, notifying(spec, receiver.url))).job_id
    async with sending(store, AT_ONCE):
        assert (await delivery_event(store, job_id)).data["attempts"] == 3
    receiver.statuses = [503] * 9
    job_id = (await finished(store, notifying(spec, receiver.url))).job_id
    async with sending(store, AT_ONCE):
        data = (await delivery_event(store, job_id)).data
    assert (data["outcome"], data["attempts"], data["message"]) == ("failed", 4, "answered 503")
    receiver.statuses = [404]
    job_id = (await finished(store, notifying(spec, receiver.url))).job_id
    async with sending(store, AT_ONCE):
        assert (await delivery_event(store, job_id)).data["attempts"] == 1


async def test_a_notice_whose_sender_was_killed_is_sent_by_another(
    store: Store, redis: Redis, spec: JobSpec, receiver: Receiver
) -> None:
    job_id = (await finished(store, notifying(spec, receiver.url))).job_id
    lost = await store.next_notice(60.0)
    assert lost is not None
    assert await store.next_notice(60.0) is None  # it is held
    await redis.zadd(keys.NOTICES, {job_id: 0})  # as if the time were over
    async with sending(store):
        assert (await delivery_event(store, job_id)).data["attempts"] == 2
    await store.settle(lost, {"outcome": "failed"})  # the first comes back to life
    events = [e for e in await store.events(job_id) if e.type == "webhook"]
    assert len(events) == 1


OPEN = Webhooks(("hooks.example", "*.sub.example"), secret=SECRET)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://hooks.example/", "must begin with https://"),
        ("ftp://hooks.example/", "must begin with https://"),
        ("https://other.example/", "an allowed host (hooks.example, *.sub.example)"),
        ("https://hooks.example.evil.example/", "an allowed host"),
        ("https://evil.example/hooks.example", "an allowed host"),
        ("https://evil.example#hooks.example", "an allowed host"),
        ("https://sub.example/", "an allowed host"),
        ("https://hooks.example@evil.example/", "no user"),
        ("https://evil.example:443\\@hooks.example/", "no user"),
        ("https:///hook", "must name a host"),
        ("https://127.0.0.1/", "an allowed host"),
        ("https://169.254.169.254/latest/meta-data", "an allowed host"),
        ("https://2130706433/", "an allowed host"),
    ],
)
async def test_a_webhook_leads_to_allowed_hosts_alone(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _never)
    outcome = await deliver(url, b"{}", OPEN)
    assert not outcome.delivered
    assert not outcome.worth_retrying
    assert words in outcome.message


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("no name may be resolved and no connection made")


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Make every name have these addresses. Returns the names that are asked for."""
    asked: list[str] = []

    def look_up(host: Any, port: Any, *_: Any, **__: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        asked.append(name)
        found = addresses if name.endswith(".example") else (name,)
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("10.0.0.7",),
        ("93.184.215.14", "192.168.1.1"),
        ("::1",),
        ("169.254.169.254",),
    ],
)
async def test_an_allowed_name_that_leads_inside_is_not_followed(
    addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, *addresses)
    monkeypatch.setattr(httpx, "AsyncClient", _never)
    outcome = await deliver("https://a.sub.example/", b"{}", OPEN)
    assert outcome == DeliveryOutcome(False, "the host resolves to a private address, or to none")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        *((address, False) for address in (
            "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "100.64.0.1",
            "169.254.169.254", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1",
            "ff02::1", "::ffff:10.0.0.1", "2002:0a00:0001::1", "64:ff9b::10.0.0.1",
            "64:ff9b:1::10.0.0.1", "::10.0.0.1", "::127.0.0.1", "::5db8:d70e", "fec0::1",
            "feff:ffff::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        )),
    ],
)  # fmt: skip
def test_private_addresses_are_known(address: str, public: bool) -> None:
    assert is_public(address) == public


async def test_the_address_that_was_checked_is_the_one_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolving(monkeypatch, "127.0.0.1")
    url = f"http://hooks.example:{receiver.server_port}/x?token=y"
    assert (await deliver(url, b"{}", LOCAL)).delivered
    assert asked.count("hooks.example") == 1  # a second resolution could give another address
    ((path, headers, _),) = receiver.received
    assert (path, headers["Host"]) == (
        "/x?token=y", f"hooks.example:{receiver.server_port}",
    )  # fmt: skip


async def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.statuses = [307]
    outcome = await deliver(receiver.url, b"{}", LOCAL)
    assert outcome == DeliveryOutcome(False, "answered 307; redirects are not followed")
    assert len(receiver.received) == 1


async def test_a_receiver_that_never_answers_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        outcome = await deliver(url, b"{}", replace(LOCAL, timeout_s=0.2))
    assert outcome.worth_retrying
    assert not outcome.delivered


async def test_the_certificate_must_be_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "127.0.0.1")
    for name, delivered in (("hooks.example", True), ("other.example", False)):
        certificate = _certificate(tmp_path, name)
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        served.load_cert_chain(certificate)
        trusting = ssl.create_default_context(cafile=str(certificate))
        for receiver in _running(Receiver(served)):
            url = f"https://hooks.example:{receiver.server_port}/"
            outcome = await deliver(url, b"{}", LOCAL, trusting)
            assert outcome.delivered == delivered, outcome.message
            assert len(receiver.received) == delivered
            assert not (await deliver(url, b"{}", LOCAL)).delivered  # nobody vouches for it


def _certificate(folder: Path, name: str) -> Path:
    """Of a host, signed by itself; with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


async def test_the_api_refuses_what_the_operator_does_not_allow(
    redis: Redis, redis_url: str, body: dict[str, Any]
) -> None:
    app = create_app(ApiSettings(redis_url=redis_url, webhooks=OPEN))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1"
        ) as client,
    ):
        for url, status in (
            ("https://hooks.example/x", 201),
            ("https://evil.example/x", 422),
            ("http://hooks.example/x", 422),
            ("https://hooks.example/x\r\nHost: y", 422),
            ("javascript:alert(1)", 422),
        ):
            answer = await client.post("/v1/jobs", json=body | {"notify": {"webhook": url}})
            assert answer.status_code == status, url
            if status == 422:
                (error,) = problem(answer, 422, "invalid_fields").errors
                assert error.path == "notify.webhook"


def test_no_secret_stands_in_a_repr() -> None:
    url = "redis://:hunter2@host/0"
    shown = repr(ApiSettings(redis_url=url, local_key="hunter2", webhooks=LOCAL))
    shown += repr(SchedulerSettings(redis_url=url, webhooks=LOCAL))
    assert "hunter2" not in shown
    assert SECRET not in shown
