from __future__ import annotations

import json
from collections.abc import Mapping

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.api import prometheus
from drmad_service.api.prometheus import Metrics
from drmad_service.store import Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from tests.service.api.test_api import finished
from tests.service.store.test_store import CAPACITY

pytestmark = pytest.mark.anyio

Numbers = Mapping[tuple[str, ...], float]


async def samples(redis: Redis, ours: Metrics | None = None) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels."""
    text = (await (ours or Metrics()).text(redis)).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_life_of_a_job_is_counted_once(redis: Redis, store: Store, spec: JobSpec) -> None:
    lease = await finished(store, spec)
    numbers = await samples(redis)
    assert numbers["drmad_jobs", "succeeded"] == 1
    assert numbers["drmad_jobs", "queued"] == 0
    committed = (await store.history(lease.job_id)).data
    assert numbers["drmad_meta_iterations_total",] == len(committed)
    for phase in committed[0].seconds:
        took = sum(record.seconds[phase] for record in committed)
        assert numbers["drmad_meta_iteration_seconds_total", phase] == pytest.approx(took)
    (reason,) = [n[1] for n in numbers if n[0] == "drmad_jobs_ended_total"]
    assert numbers["drmad_jobs_ended_total", reason, "succeeded"] == 1
    assert numbers["drmad_lease_losses_total",] == 0
    await store.delete(lease.job_id)  # what was counted stays
    later = await samples(redis)
    assert (later["drmad_jobs", "succeeded"], later["drmad_meta_iterations_total",]) == (
        0,
        len(committed),
    )


async def test_the_queue_is_counted_by_priority(redis: Redis, store: Store, spec: JobSpec) -> None:
    for priority in (0, 0, 7):
        job, _ = await store.create(spec.model_copy(update={"priority": priority}))
    await redis.hincrby(keys.job(job.id), "created_at", -60_000)
    numbers = await samples(redis)
    assert (numbers["drmad_queue_jobs", "0"], numbers["drmad_queue_jobs", "7"]) == (2, 1)
    assert numbers["drmad_queue_oldest_seconds", "7"] >= 60
    assert numbers["drmad_queue_oldest_seconds", "0"] < 60
    assert numbers["drmad_schedulers",] == 0


async def test_what_is_lost_is_counted(redis: Redis, store: Store, spec: JobSpec) -> None:
    await store.create(spec)
    lease = await store.claim("one", 60.0, CAPACITY)
    assert lease is not None
    await redis.zadd(keys.LEASES, {lease.job_id: 0})
    before = await samples(redis)
    assert before["drmad_leases_expired",] == 1
    lease = await store.claim("two", 60.0, CAPACITY)
    assert lease is not None
    await store.warn(lease, "replica_lost", "begins again")
    await store.warn(lease, "fidelity_low", "another warning")
    await store.act(lease, Action.FAIL, "replica_lost", "lost once too often")
    after = await samples(redis)
    assert (after["drmad_leases_expired",], after["drmad_lease_losses_total",]) == (0, 1)
    assert after["drmad_replica_failures_total",] == 2
    assert after["drmad_warnings_total", "fidelity_low"] == 1
    assert after["drmad_jobs_ended_total", "replica_lost", "failed"] == 1
    assert after["drmad_schedulers",] == 2
    assert after["drmad_cluster_capacity", "cpus"] == CAPACITY.cpus


async def test_requests_are_counted_by_route_and_never_by_path(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    job, _ = await store.create(spec)
    for path in (f"/v1/jobs/{job.id}", "/v1/jobs/job_none", "/v1/nothing", "/static/1/none.js"):
        await api.get(path)
    await api.get("/v1/jobs", headers={"Host": "evil.example"})
    answer = await api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (s.labels["method"], s.labels["route"], s.labels["status"]): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
        if s.name == "drmad_http_request_seconds_count"
    }
    assert samples["GET", "/v1/jobs/{job_id}", "200"] == 1
    assert samples["GET", "/v1/jobs/{job_id}", "404"] == 1
    assert samples["GET", "/static/{version}/{name:path}", "404"] == 1
    assert (samples["-", "none", "404"], samples["-", "none", "421"]) == (1, 1)
    assert job.id not in answer.text
    assert "drmad_redis_seconds_count" in answer.text
    assert "process_resident_memory_bytes" in answer.text


async def test_every_number_is_in_the_table(api: httpx.AsyncClient, redis: Redis) -> None:
    example = {"ended:failed:x": 1, "seconds:total": 1, "warning:x": 1, "webhook:delivered": 1}
    await redis.hset(keys.COUNTERS, mapping=json.loads(json.dumps(example)))
    await api.get("/healthz")
    text = (await api.get("/metrics")).text
    given = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE drmad_")}
    named = {
        line.split("{")[0].split()[0]
        for line in (prometheus.__doc__ or "").splitlines()
        if line.startswith("    drmad_")
    }
    assert {name for name in given if not name.endswith("_created")} == named


async def test_scrapes_close_to_each_other_share_one_read(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "_CACHE_S", 1000.0)
    ours = Metrics()
    before = await samples(redis, ours)
    await redis.hset(keys.COUNTERS, "meta_iterations", "5")
    name = ("drmad_meta_iterations_total",)
    assert (await samples(redis, ours))[name] == before[name] == 0
    assert (await samples(redis))[name] == 5
