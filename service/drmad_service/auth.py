"""Who asks, and what they may do: keys, browsers that signed in, and the dependency of every route.

A key comes as `Authorization: Bearer KEY`. A browser exchanges it once for a session cookie that no
script can read. Redis holds digests alone, so what it leaks opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from redis.asyncio import Redis

from drmad_service import keys
from drmad_service.errors import CrossSite, NotSignedIn, ScopeTooLow

SESSION_S = 30 * 24 * 3600
TICKET_S = 3600
"""How long the link that `drmad up` prints signs in."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Scope(IntEnum):
    """What a key allows; each includes those before it."""

    READ = 1  # look at jobs and results
    SUBMIT = 2  # submit and change jobs
    ADMIN = 3  # manage keys


@dataclass(frozen=True)
class Principal:
    """Who asks."""

    tenant: str
    scope: Scope


LOCAL = Principal("local", Scope.ADMIN)
"""Whoever holds the local key; without one, whoever reaches the loopback address."""


class Access:
    """The keys that open this service, and the sessions that were opened with them."""

    def __init__(self, redis: Redis, local_key: str | None) -> None:
        self._redis: Any = redis
        self._local_key = local_key
        self._local_digest = digest(local_key) if local_key else None

    async def is_open(self) -> bool:
        """No key is configured: only this machine reaches the service, and all of it may."""
        return self._local_digest is None

    async def of_key(self, key_digest: str) -> Principal | None:
        if self._local_digest and hmac.compare_digest(key_digest, self._local_digest):
            return LOCAL
        return None

    async def of_session(self, token: str) -> Principal | None:
        """The session's key is looked up each time: a revoked key closes its sessions."""
        key_digest = await self._redis.get(keys.session(digest(token)))
        return await self.of_key(key_digest.decode()) if key_digest else None

    async def open_session(self, key: str) -> str | None:
        """A token for the holder of `key`; None when no such key exists."""
        key_digest = digest(key)
        return await self._new_session(key_digest) if await self.of_key(key_digest) else None

    async def redeem(self, ticket: str) -> str | None:
        """A token for a ticket that is signed by the local key, young, and not used before."""
        expires, _, _ = ticket.partition(".")
        if self._local_key is None or not (expires.isascii() and expires.isdigit()):
            return None
        left_s = int(expires[:12]) - int(time.time())
        if left_s <= 0 or not hmac.compare_digest(ticket, _signed(self._local_key, expires)):
            return None
        fresh = await self._redis.set(keys.ticket(digest(ticket)), "used", nx=True, ex=left_s)
        return await self._new_session(digest(self._local_key)) if fresh else None

    async def close_session(self, token: str) -> None:
        await self._redis.delete(keys.session(digest(token)))

    async def _new_session(self, key_digest: str) -> str:
        token = secrets.token_urlsafe(32)
        await self._redis.set(keys.session(digest(token)), key_digest, ex=SESSION_S)
        return token


def digest(secret: str) -> str:
    """Keys and tokens have 256 random bits, so a plain hash cannot be turned back."""
    return hashlib.sha256(secret.encode()).hexdigest()


def issue_ticket(local_key: str) -> str:
    """What a link carries in the place of the key: signs in once, within TICKET_S."""
    return _signed(local_key, str(int(time.time()) + TICKET_S))


def _signed(local_key: str, expires: str) -> str:
    signature = hmac.new(local_key.encode(), b"sign-in " + expires.encode(), "sha256")
    return f"{expires}.{signature.hexdigest()}"


def cookie_name(request: Request) -> str:
    """Cookies know no ports: two services on one machine must not sign each other out."""
    port = request.url.port
    return f"drmad_session_{port}" if port else "drmad_session"


def session_token(request: Request) -> str | None:
    return request.cookies.get(cookie_name(request))


def refuse_cross_site(request: Request, origin_needed: bool) -> None:
    """Let no other site's page change anything in the name of whoever looks at it.

    Raises:
        CrossSite: the request comes from another origin than the host it is sent to.
    """
    origin = request.headers.get("origin")
    if origin is None and not origin_needed:
        return  # a program; browsers always tell where a changing request comes from
    if origin is None or origin.partition("://")[2] != request.headers.get("host"):
        raise CrossSite(origin)


_bearer = HTTPBearer(auto_error=False, description="A key, as in DRMAD_API_KEY.")


async def _principal(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    """Who asks. Reading needs the scope READ, everything else SUBMIT.

    Raises:
        NotSignedIn: no key or session, or one that is not known.
        ScopeTooLow: the key does not allow the method.
        CrossSite: a page of another site asks, with the browser's cookie.
    """
    access: Access = request.app.state.access
    token = session_token(request)
    changes = request.method not in _SAFE_METHODS
    principal: Principal | None = None
    if credentials is not None:
        principal = await access.of_key(digest(credentials.credentials))
    elif token is not None:
        principal = await access.of_session(token)
    is_open = principal is None and await access.is_open()
    if is_open:
        principal = LOCAL
    if principal is None:
        raise NotSignedIn
    if changes and credentials is None:
        refuse_cross_site(request, origin_needed=not is_open)
    needed = Scope.SUBMIT if changes else Scope.READ
    if principal.scope < needed:
        raise ScopeTooLow(principal.scope.name.lower(), needed.name.lower())
    return principal


PrincipalDependency = Annotated[Principal, Depends(_principal)]
signed_in = Depends(_principal)
"""For routers whose routes do not ask who it is."""
