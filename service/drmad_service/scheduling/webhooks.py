"""Tells a job's webhook that the job has ended.

The end of a job puts a notice into Redis in the same script; schedulers send what is there, so none
is lost with whoever ended the job, and no job waits for it. A notice may come twice, never silently
not at all: its outcome is an event of the job.

A tenant names the address, so it must not lead where only we may go: only to hosts that the
operator allows, to no private address, and through no redirect. The address that was checked is the
one that is connected to, whatever the name says by then.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import socket
import ssl
import time
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from redis.exceptions import RedisError

from drmad_client.records.job import JobRecord
from drmad_service.errors import JobNotFound
from drmad_service.flags import setting
from drmad_service.store import Store
from drmad_service.store.notices import Notice

logger = logging.getLogger(__name__)

ATTEMPTS = 4
_SENDERS = 4


@pydantic_dataclass(frozen=True)
class Webhooks:
    """Where notices may go, and what they are signed with."""

    hosts: tuple[str, ...] = setting(
        (),
        "Host that jobs may notify when they end, *.example.com for every host below it; may be "
        "repeated.",
        flag="host",
    )
    private: bool = setting(
        False, "Allow webhooks to reach private addresses, and to use plain http."
    )
    secret: str = Field(default="", repr=False)
    """Signs each notice."""
    timeout_s: float = setting(
        10.0, "Maximum duration of one attempt to notify a webhook, in seconds.", 0.1
    )
    retry_s: float = setting(
        5.0,
        "Delay before the second attempt to notify a webhook, in seconds; each further delay is "
        "six times as long.",
        0,
    )
    look_s: float = setting(
        1.0, "Interval between polls for webhook notices to send, in seconds.", 0.05
    )

    def refusal(self, url: str) -> str | None:
        """Why this address may not be notified; None when it may."""
        parts = urlsplit(url)
        schemes = ("https", "http") if self.private else ("https",)
        if parts.scheme not in schemes:
            return f"must begin with {' or '.join(schemes)}://"
        if not parts.hostname or parts.username is not None:
            return "must name a host, and no user"
        if not _is_listed(parts.hostname, self.hosts):
            allowed = ", ".join(self.hosts) or "none"
            return f"may lead to these hosts alone: {allowed}; the operator allows more"
        return None


@dataclass(frozen=True)
class DeliveryOutcome:
    """How an attempt went."""

    delivered: bool
    message: str
    worth_retrying: bool = False


async def keep_sending(store: Store, webhooks: Webhooks) -> None:
    """Send what is due, until cancelled."""
    await asyncio.gather(*(_send_all(store, webhooks) for _ in range(_SENDERS)))


async def _send_all(store: Store, webhooks: Webhooks) -> None:
    hold_s = 6.0 * webhooks.timeout_s  # then another scheduler takes what one took
    while True:
        notice = None
        try:
            notice = await store.next_notice(hold_s)
            if notice is not None:
                await _send(store, webhooks, notice)
        except RedisError as error:
            logger.warning("could not look for notices: %s", error)
        if notice is None:
            await asyncio.sleep(webhooks.look_s)


async def _send(store: Store, webhooks: Webhooks, notice: Notice) -> None:
    try:
        job = await store.get(notice.job_id)
    except JobNotFound:
        return
    url = job.spec.notify.webhook or ""
    outcome = await deliver(url, body_of(job), webhooks)
    if outcome.worth_retrying and notice.attempt < ATTEMPTS:
        await store.put_off(notice, webhooks.retry_s * 6.0 ** (notice.attempt - 1))
        return
    told = {
        "host": urlsplit(url).hostname,  # the rest of the address may hold a token
        "outcome": "delivered" if outcome.delivered else "failed",
        "attempts": notice.attempt,
        "message": outcome.message,
    }
    logger.info("webhook: %s", outcome.message, extra={"job_id": notice.job_id})
    await store.settle(notice, told)


def body_of(job: JobRecord) -> bytes:
    """What a webhook is told of a job."""
    told = job.model_dump(
        mode="json",
        include={
            "id", "name", "tenant", "status", "reason", "message", "finished_at", "progress",
            "best", "error", "tags",
        },
    )  # fmt: skip
    return json.dumps({"type": "job.ended", "job": told}).encode()


def signature(secret: str, at: int, body: bytes) -> str:
    """Of a notice sent at a time (Unix seconds): HMAC-SHA256 of "<time>.<body>"."""
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={signed.hexdigest()}"


async def deliver(
    url: str, body: bytes, webhooks: Webhooks, tls: ssl.SSLContext | None = None
) -> DeliveryOutcome:
    """One attempt."""
    if refusal := webhooks.refusal(url):
        return DeliveryOutcome(False, f"the webhook {refusal}")
    try:
        async with asyncio.timeout(webhooks.timeout_s):
            return await _post(httpx.URL(url), body, webhooks, tls)
    except TimeoutError:
        return DeliveryOutcome(
            False, f"no answer within {webhooks.timeout_s:g} s", worth_retrying=True
        )
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        name = type(error).__name__
        return DeliveryOutcome(False, f"{name}: {error}"[:300], worth_retrying=True)
    except ValueError as error:
        return DeliveryOutcome(False, str(error)[:300])


async def _post(
    url: httpx.URL, body: bytes, webhooks: Webhooks, tls: ssl.SSLContext | None
) -> DeliveryOutcome:
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    address = await _address(url.host, port, webhooks.private)
    if address is None:
        return DeliveryOutcome(False, "the host has a private address, or none")
    headers = {
        "Host": url.netloc.decode(),
        "Content-Type": "application/json",
        "User-Agent": "drmad",
        "Drmad-Signature": signature(webhooks.secret, int(time.time()), body),
    }
    pinned = url.copy_with(host=address)
    # The certificate must be the name's, although the address is connected to.
    extensions = {"sni_hostname": url.host}
    client = httpx.AsyncClient(
        trust_env=False, follow_redirects=False, timeout=webhooks.timeout_s, verify=tls or True
    )
    async with (
        client,
        client.stream(
            "POST", pinned, content=body, headers=headers, extensions=extensions
        ) as response,
    ):
        status = response.status_code  # what else it says is not read
    if response.is_success:
        return DeliveryOutcome(True, f"answered {status}")
    if response.is_redirect:
        return DeliveryOutcome(False, f"answered {status}; redirects are not followed")
    return DeliveryOutcome(
        False, f"answered {status}", worth_retrying=status == 429 or status >= 500
    )


async def _address(host: str, port: int, private: bool) -> str | None:
    """An address of the host, if all of them are such as may be connected to."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not addresses or not (private or all(map(is_public, addresses))):
        return None
    return addresses[0]


_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, also where one stands within another."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.sixtofour is not None or ip.teredo is not None or ip in _TRANSLATED:
            return False
    return ip.is_global and not ip.is_multicast


def _is_listed(host: str, listed: Collection[str]) -> bool:
    host = host.lower().rstrip(".")
    return any(
        host.endswith(name[1:].lower()) if name.startswith("*.") else host == name.lower()
        for name in listed
    )
