"""Notifies a job's webhook of the end of the job.

The script that ends a job also writes a notice to Redis. Any scheduler sends the notice, so it
survives the scheduler that ended the job, and no job waits for it. The notice itself waits for the
retraining that the job asks for at its end, whose answer it has. Delivery is at least once; the
outcome is an event of the job.

A tenant chooses the address, so it must not reach what only the service can reach: notices go to
hosts that the operator allows, to no private address, and follow no redirect. The connection goes
to the address that was checked, whatever the name resolves to by then.
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
from drmad_service.store.access.notices import Notice

logger = logging.getLogger(__name__)

ATTEMPTS = 4
_SENDERS = 4


@pydantic_dataclass(frozen=True)
class Webhooks:
    """The hosts to which notices are sent, and the secret that signs them."""

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
    poll_s: float = setting(
        1.0,
        "Interval between polls for webhook notices to send, in seconds.",
        0.05,
        name="look_s",
    )

    def refusal(self, url: str) -> str | None:
        """The reason why notices may not go to this address; None when they may."""
        parts = urlsplit(url)
        schemes = ("https", "http") if self.private else ("https",)
        if parts.scheme not in schemes:
            return f"must begin with {' or '.join(schemes)}://"
        if not parts.hostname or parts.username is not None:
            return "must name a host and no user"
        if not _is_listed(parts.hostname, self.hosts):
            allowed = ", ".join(self.hosts) or "none"
            return f"must name an allowed host ({allowed}), got {parts.hostname}; ask the operator"
        return None


@dataclass(frozen=True)
class DeliveryOutcome:
    """The outcome of one attempt."""

    delivered: bool
    message: str
    worth_retrying: bool = False


async def keep_sending(store: Store, webhooks: Webhooks) -> None:
    """Send every notice that is due, until cancelled."""
    await asyncio.gather(*(_send_all(store, webhooks) for _ in range(_SENDERS)))


async def _send_all(store: Store, webhooks: Webhooks) -> None:
    hold_s = 6.0 * webhooks.timeout_s  # after that another scheduler sends the notice
    while True:
        notice = None
        try:
            notice = await store.next_notice(hold_s)
            if notice is not None:
                await _send(store, webhooks, notice)
        except RedisError as error:
            logger.warning("could not poll for notices: %s", error)
        if notice is None:
            await asyncio.sleep(webhooks.poll_s)


async def _send(store: Store, webhooks: Webhooks, notice: Notice) -> None:
    try:
        job = await store.get(notice.job_id)
    except JobNotFound:
        return
    url = job.spec.notify.webhook or ""
    outcome = await deliver(url, body_of(job), webhooks)
    if outcome.worth_retrying and notice.attempt < ATTEMPTS:
        await store.postpone(notice, webhooks.retry_s * 6.0 ** (notice.attempt - 1))
        return
    settled = {
        "host": urlsplit(url).hostname,  # the rest of the address may hold a token
        "outcome": "delivered" if outcome.delivered else "failed",
        "attempts": notice.attempt,
        "message": outcome.message,
    }
    logger.info("webhook: %s", outcome.message, extra={"job_id": notice.job_id})
    await store.settle(notice, settled)


def body_of(job: JobRecord) -> bytes:
    """The body of the notice of a job's end."""
    fields = job.model_dump(
        mode="json",
        include={
            "id", "name", "tenant", "status", "reason", "message", "finished_at", "progress",
            "best", "answer", "error", "tags",
        },
    )  # fmt: skip
    return json.dumps({"type": "job.ended", "job": fields}).encode()


def signature(secret: str, at: int, body: bytes) -> str:
    """The signature of a notice: HMAC-SHA256 of "<time>.<body>", with the time in Unix seconds."""
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={signed.hexdigest()}"


async def deliver(
    url: str, body: bytes, webhooks: Webhooks, tls: ssl.SSLContext | None = None
) -> DeliveryOutcome:
    """Attempt once to send a notice."""
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
        return DeliveryOutcome(False, "the host resolves to a private address, or to none")
    headers = {
        "Host": url.netloc.decode(),
        "Content-Type": "application/json",
        "User-Agent": "drmad",
        "Drmad-Signature": signature(webhooks.secret, int(time.time()), body),
    }
    pinned = url.copy_with(host=address)
    # The certificate must match the name although the connection goes to the address.
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
        status = response.status_code  # the body is not read
    if response.is_success:
        return DeliveryOutcome(True, f"answered {status}")
    if response.is_redirect:
        return DeliveryOutcome(False, f"answered {status}; redirects are not followed")
    return DeliveryOutcome(
        False, f"answered {status}", worth_retrying=status == 429 or status >= 500
    )


async def _address(host: str, port: int, private: bool) -> str | None:
    """An address of the host; None unless all of its addresses are allowed."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not addresses or not (private or all(map(is_public, addresses))):
        return None
    return addresses[0]


_EMBEDDING = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")]
"""IPv6 addresses that hold an IPv4 address: NAT64, its local form, and IPv4-compatible ones."""


def is_public(address: str) -> bool:
    """Whether an address is public, including an IPv4 address embedded in an IPv6 address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif (
            ip.sixtofour is not None
            or ip.teredo is not None
            or ip.is_site_local
            or any(ip in net for net in _EMBEDDING)
        ):
            return False
    return ip.is_global and not ip.is_multicast


def _is_listed(host: str, listed: Collection[str]) -> bool:
    host = host.lower().rstrip(".")
    return any(
        host.endswith(name[1:].lower()) if name.startswith("*.") else host == name.lower()
        for name in listed
    )
