"""Limits of single tenants, which the operator sets; they take the place of the service's."""

from __future__ import annotations

import json
from typing import Any

from redis.asyncio import Redis

from drmad_client.records.service.usage import TenantLimits
from drmad_service.store.layout import keys


class OwnLimits:
    """The limits that tenants have of their own, in Redis, where the scripts read them."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def all(self) -> dict[str, TenantLimits]:
        """The tenants with limits of their own, by name."""
        found = await self._redis.hgetall(keys.LIMITS)
        return {
            tenant.decode(): TenantLimits.model_validate_json(found[tenant]) for tenant in found
        }

    async def of(self, tenant: str) -> TenantLimits:
        found = await self._redis.hget(keys.LIMITS, tenant)
        return TenantLimits.model_validate_json(found) if found else TenantLimits()

    async def replace(self, tenant: str, limits: TenantLimits, by: str) -> None:
        """Set the limits of a tenant, all of them; the audit log has who did it."""
        kept = limits.model_dump(exclude_none=True)
        seconds, microseconds = await self._redis.time()
        pipe = self._redis.pipeline(transaction=True)
        if kept:
            pipe.hset(keys.LIMITS, tenant, json.dumps(kept))
        else:
            pipe.hdel(keys.LIMITS, tenant)
        entry = {
            "at": int(seconds) * 1000 + int(microseconds) // 1000,
            "by": by,
            "tenant": tenant,
            "action": "limits_set",
            "detail": ", ".join(f"{name} {value:g}" for name, value in kept.items()) or "none",
        }
        pipe.xadd(keys.AUDIT, entry, maxlen=keys.AUDIT_KEPT, approximate=True)
        await pipe.execute()


def effective(service: TenantLimits, own: TenantLimits) -> TenantLimits:
    """What holds for a tenant: its own limits, and the service's where it has none."""
    return service.model_copy(update=own.model_dump(exclude_none=True))
