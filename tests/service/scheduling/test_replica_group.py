"""Replicas on a real Ray of three nodes, two of them with GPUs that nothing computes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from redis.asyncio import Redis

from drmad_client.spec.job import JobSpec
from drmad_service.scheduling.ray_cluster import RayCluster
from drmad_service.scheduling.replica_group import ReplicaGroup
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, Lease, Store
from drmad_service.store.layout.state_machine import Action

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[dict[str, str]]:
    """Ids of the nodes by name: cpus has four CPUs, one and two have so many GPUs."""
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
    names = {}
    for name, resources in {
        "cpus": {"num_cpus": 4, "num_gpus": 0},
        "one": {"num_cpus": 2, "num_gpus": 1},
        "two": {"num_cpus": 2, "num_gpus": 2},
    }.items():
        names[name] = cluster.add_node(**resources).node_id
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield names
    ray.shutdown()
    cluster.shutdown()


async def placed(
    store: Store, capacity: Capacity, spec: JobSpec, **needs: Any
) -> tuple[Lease, list[tuple[str, list[int]]]]:
    """Places a job as its driver does. Returns its lease, and node and GPUs of each actor."""
    spec = JobSpec.model_validate(spec.model_dump() | needs)
    await store.create(spec)
    lease = await store.claim("scheduler", 60.0, capacity)
    assert lease is not None
    group = ReplicaGroup(spec, [], "", None)
    ready = group.reserve(await store.place(lease, capacity))
    if ready is not None:
        ray.get(ready, timeout=60)
    group.create()

    def where(_: Any) -> tuple[str, list[int]]:
        return ray.get_runtime_context().get_node_id(), [*map(int, ray.get_gpu_ids())]

    found = ray.get([actor.__ray_call__.remote(where) for actor in group.actors], timeout=120)
    group.kill()
    return lease, found


async def test_replicas_are_where_the_store_put_them(
    three_nodes: dict[str, str], redis: Redis, store: Store, spec: JobSpec, redis_url: str
) -> None:
    capacity = await RayCluster(SchedulerSettings(redis_url)).capacity()
    assert {node.id: (node.cpus, node.gpus) for node in capacity.nodes} == {
        three_nodes["cpus"]: (4.0, 0.0),
        three_nodes["one"]: (2.0, 1.0),
        three_nodes["two"]: (2.0, 2.0),
    }
    one, two = three_nodes["one"], three_nodes["two"]

    _, found = await placed(
        store, capacity, spec, resources={"cpus": 0.5, "gpus": 1}, replicas={"count": 2}
    )
    assert [node for node, _ in found] == [two, two]
    assert sorted(gpus for _, gpus in found) == [[0], [1]]

    # Nothing was released: of the GPUs only that of the other node is left, for two halves.
    lease, found = await placed(
        store, capacity, spec, resources={"cpus": 0.5, "gpus": 0.5}, replicas={"count": 2}
    )
    assert found == [(one, [0])] * 2
    await store.create(JobSpec.model_validate(spec.model_dump() | {"resources": {"gpus": 0.1}}))
    assert await store.claim("scheduler", 60.0, capacity) is None

    # Two that share a GPU as one batch are one actor, which Ray places without a reservation.
    await store.act(lease, Action.FAIL, "test")
    await redis.delete("drmad:queue")
    _, found = await placed(
        store,
        capacity,
        spec,
        resources={"cpus": 0.5, "gpus": 0.5},
        replicas={"count": 2, "batched": "auto"},
        hyperparameters=[{"kind": "l2"}],
    )
    assert found == [(one, [0])]
