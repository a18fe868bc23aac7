"""Schema 1 to 2: every tenant has its own indices, and owns the code that its jobs name."""

from __future__ import annotations

import json
from typing import Any

from drmad_service.store.layout import keys


async def migrate(redis: Any) -> None:
    for raw in await redis.zrange(keys.JOBS, 0, -1):
        job_id = raw.decode()
        fields = await redis.hmget(keys.job(job_id), ["tenant", "status", "spec"])
        if None in fields:  # deleted meanwhile
            continue
        tenant, status, spec = (field.decode() for field in fields)
        await redis.zadd(keys.jobs_with(tenant=tenant), {job_id: 0})
        await redis.zadd(keys.jobs_with(status, tenant), {job_id: 0})
        code = json.loads(spec)["problem"].get("code") or ""
        if await redis.exists(keys.code(code.removeprefix("sha256:"))):
            await redis.sadd(keys.code_tenants(code.removeprefix("sha256:")), tenant)
