"""Schedulers with a Ray cluster of their own: each drives the jobs of its tenants alone."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.store import Capacity, NodeCapacity, Store
from drmad_service.store.layout import keys

pytestmark = pytest.mark.anyio

OWN = Capacity.of([NodeCapacity("own", 2.0, 0.0)], tenants=("a",))
SHARED = Capacity.of([NodeCapacity("shared", 4.0, 0.0)], not_tenants=("a",))


async def claimed(store: Store, capacity: Capacity) -> str | None:
    lease = await store.claim(f"scheduler of {capacity.nodes[0].id}", 60.0, capacity)
    return lease.job_id if lease else None


async def test_a_job_is_claimed_by_the_scheduler_of_its_tenant_alone(
    store: Store, spec: JobSpec
) -> None:
    of_a = (await store.create(spec, tenant="a"))[0].id
    assert await claimed(store, SHARED) is None
    of_b = (await store.create(spec, tenant="b"))[0].id
    assert await claimed(store, SHARED) == of_b
    assert await claimed(store, OWN) == of_a
    await store.create(spec, tenant="b")
    assert await claimed(store, OWN) is None


async def test_a_lost_schedulers_job_waits_for_one_of_its_cluster(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    of_a = (await store.create(spec, tenant="a"))[0].id
    of_b = (await store.create(spec, tenant="b"))[0].id
    assert (await claimed(store, OWN), await claimed(store, SHARED)) == (of_a, of_b)
    await redis.zadd(keys.LEASES, {of_a: 1, of_b: 2})  # both schedulers are lost
    assert await claimed(store, SHARED) == of_b
    assert await claimed(store, SHARED) is None
    assert await claimed(store, OWN) == of_a


async def test_reservations_of_another_cluster_take_nothing_of_this_one(
    store: Store, spec: JobSpec
) -> None:
    for tenant, capacity in (("b", SHARED), ("b", SHARED), ("a", OWN), ("a", OWN)):
        await store.create(spec, tenant=tenant)
        assert await claimed(store, capacity) is not None
    cluster = await store.cluster()
    assert (cluster.cpus, cluster.schedulers) == (6.0, 2)


async def test_requests_are_taken_by_the_scheduler_of_their_tenant_alone(store: Store) -> None:
    await store.ask("preflights", "r", "a", "{}")
    assert await store.take("preflights", unserved=["a"]) is None
    assert await store.take("preflights", served=["b"]) is None
    taken = await store.take("preflights", served=["a"])
    assert taken is not None
    assert (taken.id, taken.tenant) == ("r", "a")
