"""A scheduler on a real Ray cluster of several nodes, which join and are lost while jobs run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.service.cluster import SchedulerView
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from drmad_service.store.layout import keys
from drmad_workers import spec_adapter
from tests.end_to_end.ray_cluster import RayCluster, ray_cluster
from tests.end_to_end.test_lifecycle import spec

pytestmark = pytest.mark.anyio

WAIT_S = 600.0
ITERATIONS = 12
SETTINGS = {"DRMAD_START_TIMEOUT_S": "400", "DRMAD_RETRY_S": "0.5", "DRMAD_RAY_TIMEOUT_S": "60"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


@asynccontextmanager
async def scheduled(cluster: RayCluster, folder: Path) -> AsyncIterator[Store]:
    """A store, and a scheduler that joined the cluster with its token."""
    redis = EmbeddedRedis(folder)
    redis.start()
    environment = os.environ | cluster.environment | SETTINGS | {"DRMAD_REDIS_URL": redis.url}
    command = [sys.executable, "-m", "drmad_client", "schedule", "--ray-address", cluster.address]
    with (folder / "schedule.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        async with connect(redis.url) as connection:
            yield Store(connection)
        assert process.poll() is None, (folder / "schedule.log").read_text()[-3000:]
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)
        redis.stop()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await holds():
            await asyncio.sleep(0.1)


def job_spec(**changes: Any) -> JobSpec:
    """Four replicas, one on each CPU, long enough to be disturbed."""
    training = {"optimizer": "damped_sgd", "steps": 300, "batch_size": 50}
    given = spec(training=training, meta={"iterations": ITERATIONS}, resources={"cpus": 1})
    return JobSpec.model_validate(given | changes)


def join_three(cluster: RayCluster) -> None:
    """Room for four replicas on all of three nodes together, and not on fewer."""
    if len(cluster.addresses) == 1:
        cluster.join("127.0.0.3", cpus=2)
        cluster.join("127.0.0.4", "127.0.0.5", cpus=1)


def numbers(history: list[MetaIteration]) -> list[tuple[int, float, float]]:
    return [(r.iteration, r.validation_loss, r.hypergradient_norm) for r in history]


async def nodes_of(store: Store, record: MetaIteration) -> list[str]:
    """Addresses on which the replicas of a meta-iteration ran."""
    async with asyncio.timeout(WAIT_S):
        while True:
            views = await store._redis.hvals(keys.NODES)
            names = {
                node.id: node.address
                for view in views
                for node in SchedulerView.model_validate_json(view).nodes
            }
            if all(figures.node in names for figures in record.replicas):
                return [names[figures.node] for figures in record.replicas]
            await asyncio.sleep(0.5)


async def test_two_replicas_on_two_nodes_of_a_cluster_compute_as_on_one(
    tmp_path: Path,
) -> None:
    """The cheapest job on several raylets; the longer ones are for `make test-full`."""
    training = {"optimizer": "damped_sgd", "steps": 20, "batch_size": 50}
    shards = {"count": 2, "data": "disjoint", "placement": "spread"}
    with ray_cluster(head_cpus=1) as cluster:
        cluster.join("127.0.0.3", cpus=1)
        async with scheduled(cluster, tmp_path) as store:
            stated = job_spec(training=training, meta={"iterations": 2}, replicas=shards)
            job_id = (await store.create(stated))[0].id

            async def has_ended() -> bool:
                return (await store.get(job_id)).status.is_terminal

            await until(has_ended)
            ended = await store.get(job_id)
            assert ended.status is JobStatus.SUCCEEDED, ended.error
            history = (await store.history(job_id)).data
            assert [record.iteration for record in history] == [0, 1]
            placed = [await nodes_of(store, record) for record in history]
            assert [set(nodes) for nodes in placed] == [{"127.0.0.2", "127.0.0.3"}] * 2
    tuners = [spec_adapter.tuner(stated, replica) for replica in range(2)]
    alone = [tuner.evaluate(tuner.initial_values(), 0).validation_loss for tuner in tuners]
    computed = {figures.replica: figures.validation_loss for figures in history[0].replicas}
    assert computed == pytest.approx(dict(enumerate(alone)), rel=1e-5)


@pytest.mark.full
async def test_four_replicas_over_three_nodes_lose_one_and_end_with_the_right_history(
    cluster: RayCluster, tmp_path: Path
) -> None:
    """They join while the job waits for all of them; a fourth in the place of the one killed."""
    replicas = {"count": 4, "placement": "spread"}
    async with scheduled(cluster, tmp_path) as store:
        job_id = (await store.create(job_spec(replicas=replicas)))[0].id

        async def history() -> list[MetaIteration]:
            return (await store.history(job_id)).data

        async def waits_for_room() -> bool:
            return (await store.get(job_id)).message.startswith("needs 4 CPUs, the cluster has")

        async def has_committed() -> bool:
            return len(await history()) >= 3

        async def has_ended() -> bool:
            return (await store.get(job_id)).status.is_terminal

        await until(waits_for_room)
        join_three(cluster)
        await until(has_committed)
        first = (await history())[0]
        placed = await nodes_of(store, first)
        assert set(placed) == {"127.0.0.3", "127.0.0.4", "127.0.0.5"}
        cluster.kill("127.0.0.5")
        at = len(await history())
        cluster.join("127.0.0.6", cpus=1)
        await until(has_ended)
        ended = await store.get(job_id)
        assert ended.status is JobStatus.SUCCEEDED, ended.error
        disturbed = await history()
        assert [record.iteration for record in disturbed] == list(range(ITERATIONS))
        assert at < ITERATIONS
        assert set(await nodes_of(store, disturbed[-1])) == {"127.0.0.3", "127.0.0.4", "127.0.0.6"}
        lost = [e.data["code"] for e in await store.events(job_id) if e.type == "warning"]
        assert "replica_lost" in lost
        undisturbed = (await store.create(job_spec(replicas=replicas)))[0].id

        async def other_has_ended() -> bool:
            return (await store.get(undisturbed)).status.is_terminal

        await until(other_has_ended)
        expected = (await store.history(undisturbed)).data
        assert numbers(disturbed) == numbers(expected)
        for which in (job_id, undisturbed):
            assert {len(record.replicas) for record in (await store.history(which)).data} == {4}
        vectors = [
            await store.vectors(which, ITERATIONS - 1, "hypergradient")
            for which in (job_id, undisturbed)
        ]
        assert vectors[0] == vectors[1]


@pytest.mark.full
async def test_async_job_loses_a_node_and_goes_on_from_its_last_commit(
    cluster: RayCluster, tmp_path: Path
) -> None:
    replicas = {"count": 4, "mode": "async", "data": "disjoint", "placement": "spread"}
    join_three(cluster)
    async with scheduled(cluster, tmp_path) as store:
        job_id = (await store.create(job_spec(replicas=replicas)))[0].id

        async def has_committed() -> bool:
            return len((await store.history(job_id)).data) >= 2

        async def has_ended() -> bool:
            return (await store.get(job_id)).status.is_terminal

        await until(has_committed)
        cluster.kill("127.0.0.4")
        cluster.join("127.0.0.7", cpus=1)
        await until(has_ended)
        ended = await store.get(job_id)
        assert ended.status is JobStatus.SUCCEEDED, ended.error
        history = (await store.history(job_id)).data
        assert [record.iteration for record in history] == list(range(ITERATIONS))
        for record in history:
            assert len(record.replicas) == 4
            assert all(0 <= figures.staleness <= 8 for figures in record.replicas)
