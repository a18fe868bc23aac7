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
class Grant:
    """What the members of a provider's group may do."""

    group: str
    tenant: str
    scope: Scope


@dataclass(frozen=True)
class Identity:
    """A user whom a provider vouches for."""

    issuer: str
    subject: str
    name: str
    grant: Grant


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
    expires_at: datetime | None = None


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
        if principal is None:
            return None
        return await self._new_session(principal.key_id, digest(key), principal.tenant, "by key")

    async def open_session_of(self, identity: Identity, session_s: int) -> str:
        """A session token for a user whom a provider vouches for.

        The user has one record among the keys, with the tenant and the scope of the last sign-in.
        It owns their jobs, `drmad keys revoke` ends their sessions, and it expires with the last.
        """
        named = f"{identity.issuer} {identity.subject}"
        key_id = f"oidc_{digest(named)[:16]}"
        kept = await self._redis.hget(keys.key(key_id), "digest")
        key_digest = kept.decode() if kept else digest(secrets.token_urlsafe(32))
        grant, now = identity.grant, await self._now_ms()
        described = {
            "digest": key_digest,
            "tenant": grant.tenant,
            "scope": grant.scope.name.lower(),
            "note": identity.name,
            "created_by": identity.issuer,
            "expires_at": now + session_s * 1000,
        }
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(keys.key(key_id), mapping=described)
        pipe.hsetnx(keys.key(key_id), "created_at", now)
        pipe.pexpire(keys.key(key_id), session_s * 1000)
        pipe.zadd(keys.KEYS, {key_id: now}, nx=True)
        await pipe.execute()
        detail = f"{identity.name} by {identity.issuer}, scope {described['scope']}"
        return await self._new_session(key_id, key_digest, grant.tenant, detail, session_s)

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
        if not fresh:
            return None
        return await self._new_session(_LOCAL_ID, digest(self._local_key), LOCAL.tenant, "by link")

    async def close_session(self, token: str) -> None:
        opened_by = await self._redis.getdel(keys.session(digest(token)))
        if opened_by is None:
            return
        key_id = opened_by.decode().partition(" ")[0]
        tenant = await self._redis.hget(keys.key(key_id), "tenant")
        name = LOCAL.tenant if key_id == _LOCAL_ID else (tenant or b"").decode()
        pipe = self._redis.pipeline(transaction=True)
        _audit(pipe, await self._now_ms(), key_id, name, "session_closed", key_id, "")
        await pipe.execute()

    async def create(
        self,
        tenant: str,
        scope: Scope,
        note: str = "",
        by: str = "operator",
        expires_s: int | None = None,
    ) -> tuple[Key, str]:
        """Creates a key; returns its record and its text, which is stored nowhere.

        Args:
            by: who creates it, for the record and the audit log.
            expires_s: lifetime of the key, in seconds; it does not expire by default.
        """
        if not TENANT.fullmatch(tenant):
            raise ValueError(
                "a tenant's name must have 1 to 63 lower-case letters, digits, - and _, and begin "
                f"with a letter or digit, got {tenant!r}"
            )
        key_id = secrets.token_hex(6)
        text = f"drmad_{key_id}_{secrets.token_urlsafe(32)}"
        now = await self._now_ms()
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
        detail = f"scope {scope.name.lower()}{f': {note}' if note else ''}"
        expires_at = None
        if expires_s is not None:
            expires_at = decoding.time(now + expires_s * 1000)
            pipe.hset(keys.key(key_id), "expires_at", now + expires_s * 1000)
            pipe.pexpire(keys.key(key_id), expires_s * 1000)
            detail += f"; expires {expires_at:%Y-%m-%d %H:%M} UTC"
        pipe.zadd(keys.KEYS, {key_id: now})
        _audit(pipe, now, by, tenant, "key_created", key_id, detail)
        await pipe.execute()
        made = Key(key_id, tenant, scope, note, by, decoding.time(now), None, expires_at)
        return made, text

    async def keys(self) -> list[Key]:
        """All keys that have not expired, oldest first."""
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
        now = await self._now_ms()
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(keys.key(key_id), keys.bucket(key_id))
        pipe.zrem(keys.KEYS, key_id)
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

    async def _new_session(
        self, key_id: str, key_digest: str, tenant: str, how: str, session_s: int | None = None
    ) -> str:
        token, now = secrets.token_urlsafe(32), await self._now_ms()
        opened_by = f"{key_id} {key_digest}"
        pipe = self._redis.pipeline(transaction=True)
        pipe.set(keys.session(digest(token)), opened_by, ex=session_s or self.session_s)
        _audit(pipe, now, key_id, tenant, "session_opened", key_id, how)
        await pipe.execute()
        return token

    async def _now_ms(self) -> int:
        """Redis's clock, which every process shares."""
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


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
    used, expires = fields.get(b"used_at"), fields.get(b"expires_at")
    return Key(
        id=key_id,
        tenant=fields[b"tenant"].decode(),
        scope=Scope[fields[b"scope"].decode().upper()],
        note=fields[b"note"].decode(),
        created_by=fields.get(b"created_by", b"").decode(),
        created_at=decoding.time(fields[b"created_at"]),
        used_at=decoding.time(used) if used else None,
        expires_at=decoding.time(expires) if expires else None,
    )
