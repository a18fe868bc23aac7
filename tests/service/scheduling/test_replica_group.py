"""Replicas on a real Ray of three nodes, two of them with GPUs that nothing computes on."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from redis.asyncio import Redis

from drmad_client.files import code_archive
from drmad_client.spec.job import JobSpec
from drmad_client.spec.problem import CodeProblem
from drmad_service.ray_driver.connection import RayDriver
from drmad_service.ray_driver.launch import launched
from drmad_service.scheduling.ray_cluster import RayCluster
from drmad_service.scheduling.replica_group import ReplicaGroup
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, Lease, Store
from drmad_service.store.layout.state_machine import Action
from drmad_workers.ray_actor.messages import Failure

pytestmark = pytest.mark.anyio

CODE = code_archive.pack_files(
    {
        "where.py": b"import ray\n"
        b"def build():\n"
        b"    node = ray.get_runtime_context().get_node_id()\n"
        b"    raise RuntimeError(str((node, [int(gpu) for gpu in ray.get_gpu_ids()])))\n"
    },
    "of the test",
)
"""Code that says where it runs."""


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[tuple[str, dict[str, str]]]:
    """Address, and ids of the nodes by name: cpus has four CPUs, one and two so many GPUs."""
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
    names = {}
    for name, resources in {
        "cpus": {"num_cpus": 4, "num_gpus": 0},
        "one": {"num_cpus": 2, "num_gpus": 1},
        "two": {"num_cpus": 2, "num_gpus": 2},
    }.items():
        names[name] = cluster.add_node(**resources).node_id
    yield cluster.address, names
    cluster.shutdown()


@pytest.fixture
async def driver(three_nodes: tuple[str, dict[str, str]]) -> AsyncIterator[RayDriver]:
    async with launched(three_nodes[0], None) as connected:
        yield connected


async def placed(
    driver: RayDriver, store: Store, capacity: Capacity, spec: JobSpec, **needs: Any
) -> tuple[Lease, list[tuple[str, list[int]]]]:
    """Places a job as its driver does. Returns its lease, and node and GPUs of each actor."""
    spec = JobSpec.model_validate(spec.model_dump() | needs)
    await store.create(spec)
    lease = await store.claim("scheduler", 60.0, capacity)
    assert lease is not None
    problem = CodeProblem(entrypoint="where:build", code=CODE.name)
    group = ReplicaGroup(spec.model_copy(update={"problem": problem}), driver, [], "", CODE.content)
    async with asyncio.timeout(300):
        ready = group.reserve(await store.place(lease, capacity))
        if ready is not None:
            await ready.future()
        group.create()
        prepared = [actor.prepare.remote().future() for actor in group.actors]
        failures: list[Failure] = await asyncio.gather(*prepared)
    group.kill()
    return lease, [ast.literal_eval(where_it_ran(failure.message)) for failure in failures]


def where_it_ran(message: str) -> str:
    """What the code said: "RuntimeError: ... (where.py:4)"."""
    return message.removeprefix("RuntimeError: ").rpartition(" (")[0]


async def test_replicas_are_where_the_store_put_them(
    three_nodes: tuple[str, dict[str, str]],
    driver: RayDriver,
    redis: Redis,
    store: Store,
    spec: JobSpec,
    redis_url: str,
) -> None:
    names = three_nodes[1]
    capacity = await RayCluster(SchedulerSettings(redis_url), driver).capacity()
    assert {node.id: (node.cpus, node.gpus) for node in capacity.nodes} == {
        names["cpus"]: (4.0, 0.0),
        names["one"]: (2.0, 1.0),
        names["two"]: (2.0, 2.0),
    }
    one, two = names["one"], names["two"]

    _, found = await placed(
        driver, store, capacity, spec, resources={"cpus": 0.5, "gpus": 1}, replicas={"count": 2}
    )
    assert [node for node, _ in found] == [two, two]
    assert sorted(gpus for _, gpus in found) == [[0], [1]]

    # Nothing was released: of the GPUs only that of the other node is left, for two halves.
    lease, found = await placed(
        driver, store, capacity, spec, resources={"cpus": 0.5, "gpus": 0.5}, replicas={"count": 2}
    )
    assert found == [(one, [0])] * 2
    await store.create(JobSpec.model_validate(spec.model_dump() | {"resources": {"gpus": 0.1}}))
    assert await store.claim("scheduler", 60.0, capacity) is None

    # Two that share a GPU as one batch are one actor, which Ray places without a reservation.
    await store.act(lease, Action.FAIL, "test")
    await redis.delete("drmad:queue")
    _, found = await placed(
        driver,
        store,
        capacity,
        spec,
        resources={"cpus": 0.5, "gpus": 0.5},
        replicas={"count": 2, "batched": "auto"},
        hyperparameters=[{"kind": "l2"}],
    )
    assert found == [(one, [0])]
