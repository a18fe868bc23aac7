"""What tenants may use, and what they have used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from subprocess import CompletedProcess
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.errors import UsageError
from drmad_client.records.service.usage import TenantUsage
from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.api.auth.api_keys import Scope
from drmad_service.api.auth.scopes import needed_for
from drmad_service.errors import TooManyQueued, TooManyUploads
from drmad_service.operations import limit_commands
from drmad_service.settings import ApiSettings
from drmad_service.store import Capacity, Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from tests.client.cli.command_line import drmad

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


async def test_a_tenant_has_limits_of_its_own_beside_those_of_the_service(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    given = {"queued_jobs": 2, "replicas": 3, "gpus": 1.5, "stored_bytes": 10**9}
    answer = await api.put("/v1/limits/a", json=given)
    assert answer.status_code == 200, answer.text
    shown = (await usage(api))["a"].limits.model_dump()
    assert {name: shown[name] for name in given} == given
    assert (shown["running_jobs"], shown["uploads"]) == (None, 32)
    for count in (2, 2):
        await store.create(wanted(spec, 1.0, count=count), tenant="a")
    with pytest.raises(TooManyQueued, match="2 queued or paused jobs, and at most 2 are allowed"):
        await store.create(spec, tenant="a")
    for tenant in ("b", "b", "b"):
        await store.create(wanted(spec, 1.0), tenant=tenant)
    large = Capacity(16.0, 4.0)
    claims = [await store.claim("scheduler", 60.0, large) for _ in range(5)]
    jobs = [(await store.get(lease.job_id)).tenant for lease in claims if lease]
    assert sorted(jobs) == ["a", "b", "b", "b"]  # two replicas of a's second job are one too many
    assert (await api.put("/v1/limits/a", json={})).json()["limits"]["replicas"] is None
    assert await store.claim("scheduler", 60.0, large) is not None
    assert (await api.get("/v1/limits")).json()["data"] == []


@pytest.mark.parametrize(
    ("limits", "needs"),
    [
        ({"gpus": 1.0}, {"cpus": 1.0, "gpus": 1.0, "count": 1}),
        ({"gpus": 0.75}, {"cpus": 1.0, "gpus": 0.25, "count": 2}),
        ({"running_jobs": 1}, {"cpus": 1.0, "count": 1}),
        ({"replicas": 3}, {"cpus": 1.0, "count": 2}),
    ],
)
async def test_own_limits_of_what_runs_hold_a_job_back_until_another_ends(
    api: httpx.AsyncClient,
    store: Store,
    spec: JobSpec,
    limits: dict[str, float],
    needs: dict[str, Any],
) -> None:
    await api.put("/v1/limits/a", json=limits)
    for _ in range(2):
        await store.create(wanted(spec, **needs), tenant="a")
    lease = await store.claim("scheduler", 60.0, LARGE)
    assert lease is not None
    assert await store.claim("scheduler", 60.0, LARGE) is None
    await store.act(lease, Action.SUCCEED, "iterations")
    assert await store.claim("scheduler", 60.0, LARGE) is not None


async def test_a_limit_of_0_permits_nothing_and_a_larger_one_than_the_services_holds(
    redis_url: str, store: Store, spec: JobSpec
) -> None:
    settings = ApiSettings(redis_url=redis_url, most_queued=1, tenant_bytes=1)
    app = create_app(settings)
    body = spec.model_dump(mode="json")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1"
        ) as api,
    ):
        assert (await api.post("/v1/jobs", json=body)).status_code == 201
        assert (await api.post("/v1/jobs", json=body)).status_code == 507
        own = {"queued_jobs": 2, "stored_bytes": 10**9}
        assert (await api.put("/v1/limits/local", json=own)).status_code == 200
        assert (await api.post("/v1/jobs", json=body)).status_code == 201
        assert (await api.post("/v1/jobs", json=body)).status_code == 429
        for name, status in (("queued_jobs", 429), ("stored_bytes", 507)):
            await api.put("/v1/limits/local", json={name: 0} | {"stored_bytes": 10**9, name: 0})
            refused = await api.post("/v1/jobs", json=body)
            assert refused.status_code == status, refused.text


async def test_uploads_under_way_are_limited_and_end_with_their_request(
    api: httpx.AsyncClient, store: Store, redis: Redis
) -> None:
    own = await api.put("/v1/limits/local", json={"uploads": 2})
    assert own.status_code == 200
    arrived, go_on = asyncio.Event(), asyncio.Event()
    begun = 0

    async def slow() -> AsyncIterator[bytes]:
        nonlocal begun
        begun += 1
        if begun == 2:
            arrived.set()
        yield b"x"
        await go_on.wait()

    uploads = [
        asyncio.create_task(api.put(f"/v1/{kind}/{'ab' * 32}", content=slow()))
        for kind in ("code", "data")
    ]
    await arrived.wait()
    refused = await api.put(f"/v1/data/{'ab' * 32}", content=b"x")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_uploads")
    assert "may have 2 uploads under way" in refused.json()["detail"]
    assert int(refused.headers["Retry-After"]) >= 1
    with pytest.raises(TooManyUploads):  # another process of the API counts the same uploads
        await store.begin_upload("local", 2)
    go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*uploads)] == [422, 422]
    # A process that is killed ends none of its uploads: they count until their time is over.
    lost = [await store.begin_upload("local", 2) for _ in range(2)]
    assert (await api.put(f"/v1/data/{'ab' * 32}", content=b"x")).status_code == 429
    await redis.zadd(keys.open_uploads("local"), dict.fromkeys(lost, 1))
    assert (await api.put(f"/v1/data/{'ab' * 32}", content=b"x")).status_code == 422
    await api.put("/v1/limits/local", json={"uploads": 0})
    refused = await api.put(f"/v1/data/{'ab' * 32}", content=b"x")
    assert "ask the operator" in refused.json()["detail"]


async def test_limits_are_checked_audited_and_for_operators_alone(
    api: httpx.AsyncClient, store: Store
) -> None:
    for wrong, path in (
        ({"gpu": 1}, "gpu"),
        ({"gpus": -1}, "gpus"),
        ({"replicas": 1.5}, "replicas"),
        ({"stored_bytes": "many"}, "stored_bytes"),
    ):
        refused = await api.put("/v1/limits/a", json=wrong)
        assert refused.status_code == 422
        assert [error["path"] for error in refused.json()["errors"]] == [path]
    assert (await api.put("/v1/limits/A B", json={})).status_code == 422
    await api.put("/v1/limits/a", json={"gpus": 2, "uploads": 3})
    (entry,) = (await store.audit(tenant="a")).data
    assert (entry.action, entry.by, entry.detail) == ("limits_set", "local", "gpus 2, uploads 3")
    for method, path in (("GET", "/v1/limits"), ("PUT", "/v1/limits/{tenant}")):
        assert needed_for(method, path) is Scope.ADMIN


async def test_the_operators_command_sets_lists_and_removes_limits(
    redis: Redis, redis_url: str
) -> None:
    async def limits(*arguments: str) -> CompletedProcess[str]:
        command = ("limits", *arguments, "--redis-url", redis_url)
        return await asyncio.to_thread(drmad, *command)

    assert "No tenant has limits" in (await limits("list")).stdout
    done = await limits("set", "--tenant", "vision", "queued_jobs=20", "gpus=0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Limits of tenant vision: queued_jobs 20, gpus 0.5.\n"
    done = await limits("set", "--tenant", "vision", "gpus=none", "stored_bytes=1000000")
    assert done.stdout == "Limits of tenant vision: queued_jobs 20, stored_bytes 1,000,000.\n"
    assert "vision" in (await limits("list")).stdout
    for wrong, words in (
        (["gpu=1"], "one of queued_jobs, running_jobs, replicas, gpus"),
        (["gpus=-1"], "gpus: must be at least 0"),
    ):
        refused = await limits("set", "--tenant", "vision", *wrong)
        assert refused.returncode == 64, refused.stderr
        assert words in refused.stderr
    assert (await limits("set", "--tenant", "A B", "gpus=1")).returncode == 64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["gpus=many"], "gpus: "),
        (["gpus"], "expected NAME=NUMBER"),
        (["gpus=1", "gpus=2"], "gpus is given twice"),
    ],
)
def test_limits_that_are_no_numbers_of_one_name_each_are_refused(
    changes: list[str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        limit_commands.parsed(changes)
