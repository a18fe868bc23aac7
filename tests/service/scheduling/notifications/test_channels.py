"""Notices at the start, at a failure and at the end, by webhook, chat and mail."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from redis.asyncio import Redis

from drmad_client.records.job import JobError
from drmad_client.spec.job import JobSpec
from drmad_client.spec.operation import NotifySpec
from drmad_service.api.app import create_app
from drmad_service.cancellation import cancel_and_wait
from drmad_service.scheduling.notifications.mail import Mail, send
from drmad_service.scheduling.notifications.sending import keep_sending
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from tests.end_to_end.running import free_port
from tests.service.scheduling.notifications.test_webhooks import (
    AT_ONCE,
    LONGEST_S,
    Receiver,
    _certificate,
    receiver,
)
from tests.service.store.test_store import started

__all__ = ["receiver"]

pytestmark = pytest.mark.anyio


class Inbox:
    """What the mail server accepted; `refuse` answers a recipient instead."""

    def __init__(self) -> None:
        self.messages: list[tuple[list[str], Message]] = []
        self.answers: list[str] = []

    async def handle_DATA(  # noqa: N802
        self, server: Any, session: Session, envelope: Envelope
    ) -> str:
        if self.answers:
            return self.answers.pop(0)
        assert isinstance(envelope.content, bytes)
        message = BytesParser(policy=default).parsebytes(envelope.content)
        self.messages.append((list(envelope.rcpt_tos), message))
        return "250 accepted"


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, Mail]]:
    handler = Inbox()
    port = free_port()
    server = Controller(handler, hostname="127.0.0.1", port=port)
    server.start()
    mail = Mail(f"127.0.0.1:{port}", "drmad@example.com", ("team.example",), plain=True)
    yield handler, mail
    server.stop()


async def settled(store: Store, job_id: str, count: int, **sending: Any) -> list[dict[str, Any]]:
    """The outcomes of `count` notices of a job, once they are sent."""
    task = asyncio.create_task(keep_sending(store, AT_ONCE, **sending))
    try:
        async with asyncio.timeout(LONGEST_S):
            while True:
                events = [e.data for e in await store.events(job_id) if e.type == "webhook"]
                if len(events) >= count:
                    return events
                await asyncio.sleep(0.02)
    finally:
        await cancel_and_wait([task])


def notifying(spec: JobSpec, **notify: Any) -> JobSpec:
    return spec.model_copy(update={"notify": NotifySpec(**notify)})


async def test_each_event_goes_to_each_channel_once(
    store: Store, redis: Redis, spec: JobSpec, receiver: Receiver, inbox: tuple[Inbox, Mail]
) -> None:
    handler, mail = inbox
    wanted = notifying(
        spec.model_copy(update={"name": "a <!channel> & b"}),
        events=("start", "failure", "end"),
        webhook=f"{receiver.url}/own",
        slack=f"{receiver.url}/chat",
        email=("ann@team.example", "bob@team.example"),
    )
    lease = await started(store, wanted)
    options = {"mail": mail, "public_url": "https://tuning.example/drmad/"}
    begun = await settled(store, lease.job_id, 3, **options)
    assert {(e["event"], e["channel"], e["outcome"]) for e in begun} == {
        ("start", channel, "delivered") for channel in ("webhook", "slack", "email")
    }
    error = JobError(code="user_code", message="no <b>such</b> file")
    await store.act(lease, Action.FAIL, "user_code", error.message, error)
    ended = (await settled(store, lease.job_id, 6, **options))[3:]
    assert {(e["event"], e["channel"]) for e in ended} == {
        ("end", channel) for channel in ("webhook", "slack", "email")
    }
    own = [json.loads(body) for path, _, body in receiver.received if path.endswith("/own")]
    assert [(n["type"], n["job"]["status"]) for n in own] == [
        ("job.started", "running"),
        ("job.ended", "failed"),
    ]
    chat = [(head, json.loads(body)) for path, head, body in receiver.received if "/chat" in path]
    assert all("Drmad-Signature" not in head for head, _ in chat), "the chat shares no secret"
    link = f"<https://tuning.example/drmad/jobs/{lease.job_id}|{lease.job_id}>"
    assert [message["text"] for _, message in chat] == [
        f"Job a &lt;!channel&gt; &amp; b has started\n{link}",
        "Job a &lt;!channel&gt; &amp; b failed after 0 of 3 meta-iterations\n"
        f"no &lt;b&gt;such&lt;/b&gt; file\n{link}",
    ]
    assert [to for to, _ in handler.messages] == [["ann@team.example", "bob@team.example"]] * 2
    last = handler.messages[-1][1]
    assert isinstance(last, EmailMessage)
    assert last["Subject"] == "Job a <!channel> & b failed after 0 of 3 meta-iterations"
    assert last["Auto-Submitted"] == "auto-generated"
    text = last.get_content()
    assert "no <b>such</b> file" in text
    assert f"https://tuning.example/drmad/jobs/{lease.job_id}" in text
    assert await redis.zcard(keys.NOTICES) == 0
    assert await redis.hget(keys.COUNTERS, "mail:delivered") == b"2"


async def test_only_a_failure_is_told_where_it_is_asked_for(
    store: Store, redis: Redis, spec: JobSpec, receiver: Receiver
) -> None:
    wanted = notifying(spec, events=("failure",), slack=receiver.url)
    job, _ = await store.create(wanted)
    await store.cancel(job.id)
    lease = await started(store, wanted)
    assert await redis.zcard(keys.NOTICES) == 0
    await store.act(lease, Action.FAIL, "test")
    (event,) = await settled(store, lease.job_id, 1)
    assert (event["event"], event["channel"], event["attempts"]) == ("end", "slack", 1)
    await store.delete(job.id)
    await store.delete(lease.job_id)


async def test_a_deleted_jobs_notices_are_gone(store: Store, redis: Redis, spec: JobSpec) -> None:
    job, _ = await store.create(notifying(spec, slack="https://a.example/", email=("a@b.example",)))
    await store.cancel(job.id)
    assert await redis.zcard(keys.NOTICES) == 2
    await store.delete(job.id)
    assert await redis.zcard(keys.NOTICES) == 0


async def test_a_mail_server_that_is_busy_is_asked_again(
    store: Store, spec: JobSpec, inbox: tuple[Inbox, Mail]
) -> None:
    handler, mail = inbox
    handler.answers = ["451 later", "550 never"]
    job, _ = await store.create(notifying(spec, email=("ann@team.example",)))
    await store.cancel(job.id)
    (event,) = await settled(store, job.id, 1, mail=mail)
    assert (event["outcome"], event["attempts"]) == ("failed", 2)
    assert "550 never" in event["message"]
    assert event["host"] == "team.example"


def _message() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@b", "ann@team.example", "s"
    message.set_content("text")
    return message


async def test_mail_goes_by_tls_and_with_a_password(tmp_path: Path) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(_certificate(tmp_path, "localhost"))
    trusting = ssl.create_default_context(cafile=str(_certificate_file(tmp_path)))

    def sign_in(*given: Any) -> AuthResult:
        data = given[-1]
        return AuthResult(success=data == LoginPassword(b"drmad", b"secret"), handled=False)

    handler, port = Inbox(), free_port()
    server = Controller(
        handler,
        hostname="127.0.0.1",
        port=port,
        tls_context=served,
        require_starttls=True,
        authenticator=sign_in,
        auth_required=True,
    )
    server.start()
    try:
        mail = Mail(f"localhost:{port}", "a@b", ("team.example",), "drmad", password="secret")
        to = ["ann@team.example"]
        assert (await send(_message(), to, mail, trusting)).delivered
        untrusted = await send(_message(), to, mail)
        assert not untrusted.delivered
        assert "certificate" in untrusted.message.lower()
        wrong = await send(_message(), to, replace(mail, password="other"), trusting)
        assert (wrong.delivered, wrong.worth_retrying) == (False, False), wrong.message
        assert len(handler.messages) == 1
    finally:
        server.stop()


def _certificate_file(folder: Path) -> Path:
    return next(folder.glob("*.pem"))


async def test_a_server_without_tls_is_not_sent_to_unless_that_is_allowed(
    inbox: tuple[Inbox, Mail],
) -> None:
    handler, mail = inbox
    outcome = await send(_message(), ["ann@team.example"], replace(mail, plain=False))
    assert not outcome.delivered
    assert "--mail-plain" in outcome.message
    assert handler.messages == []


@pytest.mark.parametrize(
    ("notify", "path", "words"),
    [
        ({"email": ["ann@other.example"]}, "notify.email[0]", "allowed domain (team.example)"),
        ({"email": ["ann@evil-team.example"]}, "notify.email[0]", "allowed domain"),
        ({"email": ["ann"]}, "notify.email[0]", "match"),
        ({"email": ["ann@team.example\r\nBcc: x@y"]}, "notify.email[0]", "match"),
        ({"email": ["<ann@team.example>"]}, "notify.email[0]", "match"),
        ({"slack": "https://elsewhere.example/x"}, "notify.slack", "an allowed host"),
        ({"slack": "http://127.0.0.1/x"}, "notify.slack", "must begin with https://"),
        ({"events": []}, "notify.events", "at least 1"),
        ({"events": ["begin"]}, "notify.events[0]", "start"),
        ({"mail": ["ann@team.example"]}, "notify.mail", "not a known field"),
    ],
)
async def test_addresses_that_are_not_allowed_are_refused_at_the_submission(
    redis: Redis, redis_url: str, spec: JobSpec, notify: dict[str, Any], path: str, words: str
) -> None:
    settings = ApiSettings(redis_url=redis_url, mail=Mail(domains=("team.example",)))
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        body = spec.model_dump(mode="json") | {"notify": notify}
        refused = await client.post("/v1/jobs", json=body)
        assert refused.status_code == 422, refused.text
        (error,) = refused.json()["errors"]
        assert error["path"] == path
        assert words in error["message"]
