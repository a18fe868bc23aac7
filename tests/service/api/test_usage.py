"""What tenants may use, and what they have used."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.records.service.usage import TenantUsage
from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings
from drmad_service.store import Capacity, Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action

pytestmark = pytest.mark.anyio

LARGE = Capacity(8.0, 4.0)


def wanted(spec: JobSpec, cpus: float, gpus: float = 0.0, count: int = 1) -> JobSpec:
    needs: dict[str, Any] = {
        "resources": {"cpus": cpus, "gpus": gpus},
        "replicas": {"count": count},
    }
    return JobSpec.model_validate(spec.model_dump() | needs)


async def usage(api: httpx.AsyncClient) -> dict[str, TenantUsage]:
    answer = await api.get("/v1/usage")
    assert answer.status_code == 200, answer.text
    found = [TenantUsage.model_validate(each) for each in answer.json()["data"]]
    return {each.tenant: each for each in found}


async def held_since(redis: Redis, holder: str, seconds: float) -> None:
    """Let a reservation be as old as this."""
    kept: Any = await redis.hget(keys.RESERVED_AT, holder)
    since = float(kept) - 1000 * seconds
    await redis.hset(keys.RESERVED_AT, holder, f"{since:.0f}")
    if await redis.exists(keys.job(holder)):
        await redis.hset(keys.job(holder), "reserved_at", f"{since:.0f}")


async def test_cpu_and_gpu_seconds_are_counted_by_job_and_tenant(
    api: httpx.AsyncClient, store: Store, spec: JobSpec, redis: Redis
) -> None:
    job, _ = await store.create(wanted(spec, 2.0, 0.5, count=2), tenant="a")
    lease = await store.claim("scheduler", 60.0, LARGE)
    assert lease is not None
    await held_since(redis, lease.job_id, 100.0)
    running = (await store.get(job.id)).usage
    assert running.cpu_seconds == pytest.approx(400.0, abs=40.0)
    assert running.gpu_seconds == pytest.approx(100.0, abs=10.0)
    held = (await usage(api))["a"]
    assert (held.running_jobs, held.replicas, held.cpus, held.gpus) == (1, 2, 4.0, 1.0)
    assert held.total.cpu_seconds == 0.0
    await store.act(lease, Action.YIELD, "preempted")
    again = await store.claim("scheduler", 60.0, LARGE)
    assert again is not None
    await held_since(redis, lease.job_id, 10.0)
    await store.act(again, Action.SUCCEED, "iterations")
    ended = (await store.get(job.id)).usage
    assert ended.cpu_seconds == pytest.approx(440.0, abs=40.0)
    assert ended.gpu_seconds == pytest.approx(110.0, abs=10.0)
    released = (await usage(api))["a"]
    assert (released.running_jobs, released.replicas, released.cpus, released.gpus) == (0,) * 4
    assert released.total == ended
    metrics = (await api.get("/metrics")).text
    (line,) = [
        line
        for line in metrics.splitlines()
        if line.startswith('drmad_usage_seconds_total{resource="gpu",tenant="a"}')
    ]
    assert float(line.split()[-1]) == pytest.approx(ended.gpu_seconds)
    await store.delete(job.id)
    assert (await usage(api))["a"].total == ended  # of the tenant, also when the job is gone
    for index in (keys.RESERVATIONS, keys.PLACES, keys.RESERVED_AT):
        assert await redis.exists(index) == 0


async def test_replicas_of_a_tenant_are_limited(store: Store, spec: JobSpec) -> None:
    limited = Capacity(8.0, 0.0, tenant_replicas=3)
    for tenant, count in (("a", 2), ("a", 2), ("b", 3), ("a", 1)):
        await store.create(wanted(spec, 1.0, count=count), tenant=tenant)
    claims = [await store.claim("scheduler", 60.0, limited) for _ in range(4)]
    jobs = [await store.get(lease.job_id) for lease in claims if lease]
    assert [(job.tenant, job.spec.replicas.count) for job in jobs] == [("a", 2), ("b", 3), ("a", 1)]


async def test_tenant_that_stores_as_much_as_it_may_is_refused_until_it_deletes(
    redis: Redis, redis_url: str, store: Store, spec: JobSpec
) -> None:
    app = create_app(ApiSettings(redis_url=redis_url, tenant_bytes=200_000))
    body = spec.model_dump(mode="json")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1"
        ) as api,
    ):
        assert (await api.post("/v1/jobs", json=body)).status_code == 201
        other, _ = await store.create(spec, tenant="other")
        for job_id in (other.id, (await store.create(spec))[0].id):
            await redis.hset(keys.job(job_id, "chunks"), "x", b"x" * 250_000)
        refused = await api.post("/v1/jobs", json=body)
        assert (refused.status_code, refused.json()["code"]) == (507, "tenant_full")
        assert "delete jobs that have ended" in refused.json()["detail"]
        for kind in ("code", "data"):
            upload = await api.put(f"/v1/{kind}/{'ab' * 32}", content=b"x")
            assert (upload.status_code, upload.json()["code"]) == (507, "tenant_full")
        await store.cancel(job_id)
        await store.delete(job_id)
        assert (await api.post("/v1/jobs", json=body)).status_code == 201
