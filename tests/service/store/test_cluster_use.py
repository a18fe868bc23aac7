"""What is reserved of each node, and the samples of the cluster's use."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from drmad_client.plots.cluster_use import cluster_use
from drmad_client.records.service.cluster import NodeReservation, UseSample
from drmad_client.spec.job import JobSpec
from drmad_service.store import Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from tests.service.dashboard import gallery

pytestmark = pytest.mark.anyio


async def test_reservations_are_those_of_the_places_of_replicas(store: Store, redis: Redis) -> None:
    await redis.hset(
        keys.PLACES,
        mapping={
            "job_1": '[["a", 2, 4.0, [[1, 1.0], [2, 0.5]]], ["b", 1, 2.0, {}]]',
            "job_2": '[["b", 3, 1.5, [[1, 0.25]]]]',
        },
    )
    assert await store.node_reservations() == {
        "a": NodeReservation(cpus=4.0, gpus=1.5, replicas=2, jobs=["job_1"]),
        "b": NodeReservation(cpus=3.5, gpus=0.25, replicas=4, jobs=["job_1", "job_2"]),
    }


async def test_a_minute_has_one_sample_of_what_is_reserved(
    store: Store, redis: Redis, spec: JobSpec
) -> None:
    await store.report_nodes("scheduler_1", gallery.nodes())
    lease = await gallery.running(store, spec)
    await store.create(spec)
    assert await store.sample_use()
    (first,) = await store.uses()
    assert (first.cpus, first.gpus) == (gallery.CAPACITY.cpus, gallery.CAPACITY.gpus)
    assert (first.running, first.queued) == (1, 1)
    assert first.reserved_cpus == spec.resources.cpus * spec.replicas.count
    # Another scheduler in the same minute adds nothing, unless the clock has just gone on.
    added = await store.sample_use()
    assert len(await store.uses()) == 1 + added
    await store.act(lease, Action.SUCCEED, "iterations")
    await redis.delete(keys.USE)
    await store.sample_use()
    assert (await store.uses())[-1].reserved_cpus == 0.0


async def test_the_figure_has_shares_and_counts() -> None:
    samples = [
        UseSample(
            at=datetime(2026, 1, 1, 12, minute, tzinfo=UTC),
            cpus=16,
            gpus=0,
            reserved_cpus=4 * minute,
            reserved_gpus=0,
            running=minute,
            queued=2,
        )
        for minute in range(3)
    ]
    figure = cluster_use(samples)
    drawn = {trace["name"]: trace for trace in figure["data"]}
    assert set(drawn) == {"CPU cores", "running jobs", "queued jobs"}
    assert drawn["CPU cores"]["y"] == [0.0, 0.25, 0.5]
    assert drawn["CPU cores"]["x"][1] == "2026-01-01 12:01:00"
    assert drawn["queued jobs"]["y"] == [2, 2, 2]
    assert "every minute" in cluster_use([])["layout"]["annotations"][0]["text"]
