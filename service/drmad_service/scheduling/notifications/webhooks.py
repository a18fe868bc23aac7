"""Posts notices to the addresses that jobs name.

A tenant chooses the address, so it must not reach what only the service can reach: notices go to
hosts that the operator allows, to no private address, and follow no redirect. The connection goes
to the address that was checked, whatever the name resolves to by then.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import socket
import ssl
import time
from urllib.parse import urlsplit

import httpx
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from drmad_service.flags import setting
from drmad_service.scheduling.notifications.delivery import DeliveryOutcome, is_listed

logger = logging.getLogger(__name__)


@pydantic_dataclass(frozen=True)
class Webhooks:
    """The hosts to which notices are sent, and the secret that signs them."""

    hosts: tuple[str, ...] = setting(
        (),
        "Host that jobs may notify, as a webhook or a chat, *.example.com for every host below it; "
        "may be repeated.",
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
        if not is_listed(parts.hostname, self.hosts):
            allowed = ", ".join(self.hosts) or "none"
            return f"must name an allowed host ({allowed}), got {parts.hostname}; ask the operator"
        return None


def signature(secret: str, at: int, body: bytes) -> str:
    """The signature of a notice: HMAC-SHA256 of "<time>.<body>", with the time in Unix seconds."""
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={signed.hexdigest()}"


async def deliver(
    url: str,
    body: bytes,
    webhooks: Webhooks,
    tls: ssl.SSLContext | None = None,
    *,
    signed: bool = True,
) -> DeliveryOutcome:
    """Attempt once to send a notice; the receiver of one that is not `signed` has no secret."""
    if refusal := webhooks.refusal(url):
        return DeliveryOutcome(False, f"the webhook {refusal}")
    try:
        async with asyncio.timeout(webhooks.timeout_s):
            return await _post(httpx.URL(url), body, webhooks, tls, signed)
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
    url: httpx.URL, body: bytes, webhooks: Webhooks, tls: ssl.SSLContext | None, signed: bool
) -> DeliveryOutcome:
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    address = await _address(url.host, port, webhooks.private)
    if address is None:
        return DeliveryOutcome(False, "the host resolves to a private address, or to none")
    headers = {
        "Host": url.netloc.decode(),
        "Content-Type": "application/json",
        "User-Agent": "drmad",
    }
    if signed:
        headers["Drmad-Signature"] = signature(webhooks.secret, int(time.time()), body)
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
