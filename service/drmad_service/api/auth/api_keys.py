"""API keys: their scopes, tenants, sessions and request rates.

A key is `drmad_<id>_<secret>`; the secret has 256 random bits. Redis holds only digests, so a leak
of its data discloses no key. Every request reads its key from Redis, so revoking a key also ends
the sessions that it opened, at once.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from redis.asyncio import Redis

from drmad_service.errors import KeyNotFound, TooManyRequests
from drmad_service.store.access.scripts import Scripts
from drmad_service.store.layout import decoding, keys

TICKET_S = 3600
"""Lifetime of the sign-in link that `drmad up` prints, in seconds."""

_LOCAL_ID = "local"
_KEY = re.compile(r"drmad_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Scope(IntEnum):
    """What a key allows; each scope includes those before it."""

    READ = 1  # read the tenant's jobs and results
    SUBMIT = 2  # submit jobs, and change those that the key has made
    MANAGE = 3  # change all of the tenant's jobs
    ADMIN = 4  # read, submit and change the jobs of every tenant


@dataclass(frozen=True)
class Principal:
    """The caller of a request."""

    tenant: str
    scope: Scope
    key_id: str

    @property
    def sees_all(self) -> bool:
        return self.scope >= Scope.ADMIN

    @property
    def may_submit(self) -> bool:
        return self.scope >= Scope.SUBMIT

    def may_change(self, owner: str | None) -> bool:
        """Whether the principal may change a job of its tenant that the key `owner` has made.

        A job of an earlier release has no owner.
        """
        return self.scope >= Scope.MANAGE or owner in (None, self.key_id)

    @property
    def only_tenant(self) -> str | None:
        """The only tenant whose jobs the principal sees; None if it sees those of all tenants."""
        return None if self.sees_all else self.tenant


LOCAL = Principal("local", Scope.ADMIN, _LOCAL_ID)
"""The holder of the local key; without any key, every caller of the loopback address."""


@dataclass(frozen=True)
class Key:
    """The record of a key, without its secret."""

    id: str
    tenant: str
    scope: Scope
    note: str
    created_by: str
    created_at: datetime
    used_at: datetime | None
    """Time of the last use, to the minute."""


class Access:
    """The service's keys, and the sessions that they opened."""

    def __init__(
        self,
        redis: Redis,
        local_key: str | None = None,
        requests_per_s: float = 0.0,
        request_burst: int = 0,
        open_without_keys: bool = True,
        session_s: int = 30 * 24 * 3600,
    ) -> None:
        """
        Args:
            requests_per_s: sustained request rate per key; 0 sets no limit. The local key has no
                limit, because its holder owns the machine.
            request_burst: requests that a key may send at once.
            open_without_keys: allows every request as long as no key exists; only for a service
                that listens on loopback.
            session_s: lifetime of a browser's session, in seconds.
        """
        self.session_s = session_s
        self._redis: Any = redis
        self._scripts = Scripts(redis)
        self._local_key = local_key
        self._local_digest = digest(local_key) if local_key else None
        self._rate = requests_per_s
        self._burst = max(1, request_burst)
        self._open_without_keys = open_without_keys

    async def is_open(self) -> bool:
        """Whether every request is allowed: the service is on loopback, and no key exists."""
        if self._local_digest is not None or not self._open_without_keys:
            return False
        return not await self._redis.exists(keys.KEYS)

    async def of_key(self, key: str) -> Principal | None:
        """
        Raises:
            TooManyRequests: the key exceeds its request rate.
        """
        key_digest = digest(key)
        if self._is_local(key_digest):
            return LOCAL
        known = _KEY.fullmatch(key)
        return await self._admitted(key_id=known[1], key_digest=key_digest) if known else None

    async def of_session(self, token: str) -> Principal | None:
        """
        Raises:
            TooManyRequests: the session's key exceeds its request rate.
        """
        return await self._admitted(session=keys.session(digest(token)))

    async def still_knows(self, principal: Principal) -> bool:
        """Whether the principal's key is still valid."""
        return principal.key_id == _LOCAL_ID or bool(
            await self._redis.exists(keys.key(principal.key_id))
        )

    async def open_session(self, key: str) -> str | None:
        """A session token for the holder of `key`; None if there is no such key."""
        principal = await self.of_key(key)
        return await self._new_session(principal.key_id, digest(key)) if principal else None

    async def redeem(self, ticket: str) -> str | None:
        """A session token for an unused, unexpired ticket that the local key signed; else None."""
        expires, _, _ = ticket.partition(".")
        if self._local_key is None or not (expires.isascii() and expires.isdigit()):
            return None
        left_s = int(expires[:12]) - int(time.time())
        signed = _signed(self._local_key, expires).encode()
        if left_s <= 0 or not hmac.compare_digest(ticket.encode(), signed):
            return None
        fresh = await self._redis.set(keys.ticket(digest(ticket)), "used", nx=True, ex=left_s)
        return await self._new_session(_LOCAL_ID, digest(self._local_key)) if fresh else None

    async def close_session(self, token: str) -> None:
        await self._redis.delete(keys.session(digest(token)))

    async def create(
        self, tenant: str, scope: Scope, note: str = "", by: str = "operator"
    ) -> tuple[Key, str]:
        """Creates a key; returns its record and its text, which is stored nowhere.

        Args:
            by: who creates it, for the record and the audit log.
        """
        if not TENANT.fullmatch(tenant):
            raise ValueError(
                "a tenant's name must have 1 to 63 lower-case letters, digits, - and _, and begin "
                f"with a letter or digit, got {tenant!r}"
            )
        key_id = secrets.token_hex(6)
        text = f"drmad_{key_id}_{secrets.token_urlsafe(32)}"
        seconds, micros = await self._redis.time()
        now = seconds * 1000 + micros // 1000
        described = {
            "digest": digest(text),
            "tenant": tenant,
            "scope": scope.name.lower(),
            "note": note,
            "created_by": by,
            "created_at": now,
        }
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(keys.key(key_id), mapping=described)
        pipe.zadd(keys.KEYS, {key_id: now})
        detail = f"scope {scope.name.lower()}{f': {note}' if note else ''}"
        _audit(pipe, now, by, tenant, "key_created", key_id, detail)
        await pipe.execute()
        return Key(key_id, tenant, scope, note, by, decoding.time(now), None), text

    async def keys(self) -> list[Key]:
        """All keys, oldest first."""
        ids = [raw.decode() for raw in await self._redis.zrange(keys.KEYS, 0, -1)]
        pipe = self._redis.pipeline(transaction=False)
        for key_id in ids:
            pipe.hgetall(keys.key(key_id))
        return [_key(i, f) for i, f in zip(ids, await pipe.execute(), strict=True) if f]

    async def revoke(self, key_id: str, by: str = "operator") -> None:
        """
        Raises:
            KeyNotFound: there is no such key.
        """
        tenant = await self._redis.hget(keys.key(key_id), "tenant")
        if tenant is None:
            raise KeyNotFound(key_id)
        seconds, micros = await self._redis.time()
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(keys.key(key_id), keys.bucket(key_id))
        pipe.zrem(keys.KEYS, key_id)
        now = seconds * 1000 + micros // 1000
        _audit(pipe, now, by, tenant.decode(), "key_revoked", key_id, "")
        await pipe.execute()

    def _is_local(self, key_digest: str) -> bool:
        return bool(self._local_digest) and hmac.compare_digest(
            key_digest, self._local_digest or ""
        )

    async def _admitted(
        self, session: str = "", key_id: str = "", key_digest: str = ""
    ) -> Principal | None:
        found = await self._scripts.run(
            "admit", session, key_id, key_digest, self._rate, self._burst
        )
        if not found:
            return None
        key_id, key_digest, kept, tenant, scope, wait_ms = found
        if key_id == _LOCAL_ID:
            return LOCAL if self._is_local(key_digest) else None
        if not hmac.compare_digest(key_digest, kept):
            return None
        if wait_ms:
            raise TooManyRequests(self._rate, wait_ms / 1000)
        return Principal(tenant, Scope[scope.upper()], key_id)

    async def _new_session(self, key_id: str, key_digest: str) -> str:
        token = secrets.token_urlsafe(32)
        opened_by = f"{key_id} {key_digest}"
        await self._redis.set(keys.session(digest(token)), opened_by, ex=self.session_s)
        return token


def _audit(
    pipe: Any, now_ms: int, by: str, tenant: str, action: str, key_id: str, detail: str
) -> None:
    entry = {"at": now_ms, "by": by, "tenant": tenant, "action": action, "key": key_id}
    kept = keys.AUDIT_KEPT
    pipe.xadd(keys.AUDIT, entry | {"detail": detail}, maxlen=kept, approximate=True)


def digest(secret: str) -> str:
    """A plain hash suffices: keys and tokens have 256 random bits, too many to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def issue_ticket(local_key: str) -> str:
    """A ticket that a link carries instead of the key: it signs in once, within TICKET_S."""
    return _signed(local_key, str(int(time.time()) + TICKET_S))


def _signed(local_key: str, expires: str) -> str:
    signature = hmac.new(local_key.encode(), b"sign-in " + expires.encode(), "sha256")
    return f"{expires}.{signature.hexdigest()}"


def _key(key_id: str, fields: Mapping[bytes, bytes]) -> Key:
    used = fields.get(b"used_at")
    return Key(
        id=key_id,
        tenant=fields[b"tenant"].decode(),
        scope=Scope[fields[b"scope"].decode().upper()],
        note=fields[b"note"].decode(),
        created_by=fields.get(b"created_by", b"").decode(),
        created_at=decoding.time(fields[b"created_at"]),
        used_at=decoding.time(used) if used else None,
    )
