"""Where jobs go: nodes hold replicas, not the sum of their CPUs and GPUs."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from drmad_client.records.job import JobRecord
from drmad_service.store import Capacity, Lease, NodeCapacity, Store, StoreSettings
from drmad_service.store.access.connection import connect
from drmad_service.store.jobs.placement import Needs, Placed
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action
from tests.service.store.test_store_model import job_spec

pytestmark = pytest.mark.anyio

ONES = [NodeCapacity("a", 1.0, 1.0), NodeCapacity("b", 1.0, 1.0)]


def cluster(*nodes: tuple[float, float], **bounds: Any) -> Capacity:
    """Nodes n0, n1, ... with so many CPUs and GPUs."""
    return Capacity.of([NodeCapacity(f"n{i}", *node) for i, node in enumerate(nodes)], **bounds)


async def submitted(store: Store, **needs: Any) -> JobRecord:
    placement = needs.pop("placement", "pack")
    spec = job_spec(**needs)
    replicas = spec.replicas.model_copy(update={"placement": placement})
    return (await store.create(spec.model_copy(update={"replicas": replicas})))[0]


async def claimed(store: Store, capacity: Capacity) -> Lease:
    lease = await store.claim("scheduler", 60.0, capacity)
    assert lease is not None
    return lease


async def places(store: Store, capacity: Capacity, **needs: Any) -> list[tuple[str, int]]:
    """Where a job goes that is submitted and claimed now."""
    job = await submitted(store, **needs)
    lease = await claimed(store, capacity)
    assert lease.job_id == job.id
    return [(place.node, place.replicas) for place in await store.place(lease, capacity)]


async def test_job_that_no_node_holds_stands_aside_and_says_why(store: Store) -> None:
    capacity = Capacity.of(ONES)
    await store.claim("scheduler", 60.0, capacity)
    large = await submitted(store, cpus=2)
    assert large.message == "no node has 2 CPUs; the largest has 1"
    assert large.waiting is not None
    assert large.waiting.impossible == large.message
    small = await submitted(store, cpus=1)
    assert (await claimed(store, capacity)).job_id == small.id
    assert await store.claim("scheduler", 60.0, capacity) is None
    grown = Capacity.of([*ONES, NodeCapacity("c", 2.0, 0.0)])
    assert (await claimed(store, grown)).job_id == large.id


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs(2.0, 0.0), "no node has 2 CPUs; the largest has 1"),
        (Needs(1.0, 2.0), "no node has 2 GPUs; the largest has 1"),
        (Needs(0.5, 0.6, 3), "the nodes hold 2 of its 3 replicas at once, each with 0.5 CPUs and "),
        (Needs(1.0, 0.0, 3), "needs 3 CPUs, the cluster has 2"),
        (Needs(0.1, 1.0, 3), "needs 3 GPUs, the cluster has 2"),
        (Needs(1.0, 0.5, 2), None),
    ],
)
def test_refusals_name_what_is_missing(needs: Needs, message: str | None) -> None:
    refusal = needs.refusal(ONES)
    assert refusal == message or (message and refusal and refusal.startswith(message))


def test_cpus_and_gpus_are_needed_on_the_same_node() -> None:
    nodes = [NodeCapacity("a", 8.0, 0.0), NodeCapacity("b", 1.0, 1.0)]
    assert Needs(4.0, 1.0).refusal(nodes) == "no node has 4 CPUs and 1 GPU together"
    assert Needs(4.0, 1.0).refusal([]) == "needs 1 GPU, the cluster has 0"


async def test_fragments_do_not_add_up(store: Store) -> None:
    capacity = cluster((2.0, 0.0), (2.0, 0.0))
    await places(store, capacity, cpus=1, count=2, placement="spread")
    (holder,) = (job.id for job in (await store.jobs()).data)
    job = await submitted(store, cpus=2)
    assert job.message == (
        "needs 2 CPUs on one node: no replicas would fit what is free; node n0 has most room, "
        f"1 of 2 CPUs free; held by {holder[-6:]} (2 CPUs)"
    )
    assert await store.claim("scheduler", 60.0, capacity) is None


async def test_pack_takes_few_nodes_and_spread_takes_many(store: Store) -> None:
    capacity = cluster((2.0, 0.0), (4.0, 0.0), (3.0, 0.0))
    assert await places(store, capacity, count=3) == [("n2", 3)]
    assert await places(store, capacity, count=4, placement="spread") == [("n0", 2), ("n1", 2)]
    assert await places(store, capacity, count=2) == [("n1", 2)]


async def test_job_without_gpus_leaves_the_nodes_with_gpus_to_others(store: Store) -> None:
    capacity = cluster((2.0, 2.0), (8.0, 0.0))
    assert await places(store, capacity, count=2) == [("n1", 2)]
    assert await places(store, capacity, gpus=1, count=2) == [("n0", 1), ("n0", 1)]


async def test_parts_of_a_gpu_share_one_and_never_two(store: Store) -> None:
    capacity = cluster((8.0, 2.0))
    assert await places(store, capacity, gpus=0.6) == [("n0", 1)]
    assert await places(store, capacity, gpus=0.25, count=4) == [("n0", 4)]
    wide = await submitted(store, gpus=0.6)
    assert await store.claim("scheduler", 60.0, capacity) is None  # 0.4 of the first GPU are left
    assert (await store.get(wide.id)).message.startswith("needs 0.6 GPUs, 0.4 of 2 are free")


async def test_replicas_of_a_lost_node_move_and_the_others_stay(store: Store) -> None:
    capacity = cluster((2.0, 0.0), (2.0, 0.0))
    await submitted(store, cpus=2, count=2)
    lease = await claimed(store, capacity)
    assert await store.place(lease, capacity) == [Placed("n0", 1), Placed("n1", 1)]
    left = Capacity.of([NodeCapacity("n0", 2.0, 0.0)])
    assert await store.place(lease, left) == []
    replaced = Capacity.of([NodeCapacity("n0", 2.0, 0.0), NodeCapacity("n9", 2.0, 0.0)])
    assert {place.node for place in await store.place(lease, replaced)} == {"n0", "n9"}


async def test_job_that_was_not_placed_waits_longer_each_time_and_others_start(
    redis: Redis,
) -> None:
    store = Store(redis, StoreSettings(unplaced_s=100.0, longest_unplaced_s=300.0))
    capacity = cluster((2.0, 0.0))
    unlucky = await submitted(store, cpus=2)
    waits = []
    for _ in range(4):
        lease = await claimed(store, capacity)
        assert lease.job_id == unlucky.id
        await store.act(lease, Action.YIELD, "not_placed", "not ready")
        waiting = (await store.get(unlucky.id)).waiting
        assert waiting is not None
        assert waiting.again_at is not None
        at, until = await redis.hmget(keys.job(unlucky.id), ["unplaced_at", "unplaced_until"])
        waits.append((float(until) - float(at)) / 1000)  # type: ignore[arg-type]
        other = await submitted(store, cpus=1)
        started = await claimed(store, capacity)
        assert started.job_id == other.id
        await store.act(started, Action.SUCCEED, "iterations")
        assert "could not be placed" in (await store.get(unlucky.id)).message
        await redis.hset(keys.job(unlucky.id), "unplaced_until", "1")  # its time has come
    assert waits == [100.0, 200.0, 300.0, 300.0]
    lease = await claimed(store, capacity)
    await store.act(lease, Action.RUN, "started")
    assert await redis.hget(keys.job(unlucky.id), "unplaced") is None


async def test_changed_nodes_end_the_wait_of_a_job_that_was_not_placed(store: Store) -> None:
    capacity = cluster((2.0, 0.0))
    job = await submitted(store, cpus=2)
    await store.act(await claimed(store, capacity), Action.YIELD, "not_placed")
    assert await store.claim("scheduler", 60.0, capacity) is None
    await asyncio.sleep(0.002)  # the clock of the store counts milliseconds
    assert (await claimed(store, cluster((2.0, 0.0), (1.0, 0.0)))).job_id == job.id


async def test_jobs_that_only_an_autoscaler_could_hold_say_so(store: Store) -> None:
    two = NodeCapacity("", 4.0, 1.0)
    capacity = cluster((1.0, 0.0), autoscaler=(two, two))
    await store.claim("scheduler", 60.0, capacity)
    later = await submitted(store, cpus=4, count=2)
    assert later.message == (
        "no node has 4 CPUs; the largest has 1; waits for the autoscaler to add nodes"
    )
    never = await submitted(store, cpus=5)
    assert never.message.endswith("also with every node that the autoscaler may add")
    small = await submitted(store, cpus=1)
    assert (await claimed(store, capacity)).job_id == small.id


async def test_only_jobs_that_help_make_room_for_one_of_higher_priority(store: Store) -> None:
    capacity = cluster((1.0, 0.0), (1.0, 1.0))
    await submitted(store, cpus=1)
    await submitted(store, cpus=1, gpus=1)
    leases = [await claimed(store, capacity) for _ in range(2)]
    urgent = await submitted(store, cpus=1, gpus=0.5, priority=90)
    assert [await store.outranked(lease, capacity) for lease in leases] == [False, True]
    await store.act(leases[1], Action.YIELD, "preempted")
    assert (await claimed(store, capacity)).job_id == urgent.id


@dataclass(frozen=True)
class Wanted:
    """A job of a random workload."""

    cpus: float
    gpus: float
    count: int
    placement: str
    batched: bool
    minute: float


PARTS = [0.0, 0.25, 0.3, 0.5, 0.6, 1.0]
workloads = st.lists(
    st.builds(
        Wanted,
        st.sampled_from([0.5, 1.0, 2.0, 3.0]),
        st.sampled_from(PARTS),
        st.integers(1, 5),
        st.sampled_from(["pack", "spread"]),
        st.booleans(),
        st.floats(0.0, 400.0),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda wanted: wanted.minute,
)
node_lists = st.lists(
    st.tuples(st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.sampled_from([0.0, 1.0, 2.0])),
    min_size=1,
    max_size=4,
)


@settings(derandomize=True, deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(nodes=node_lists, workload=workloads, seed=st.integers(0, 1000))
def test_nobody_starves_and_nothing_is_promised_twice_on_any_nodes(
    redis_url: str, nodes: list[tuple[float, float]], workload: list[Wanted], seed: int
) -> None:
    """The first job that the nodes could hold runs first, at the moment when they do hold it."""
    asyncio.run(_workload(redis_url, cluster(*nodes), workload, random.Random(seed)))


class Room:
    """What is free of the nodes, replica by replica, written as simply as the promise."""

    def __init__(self, capacity: Capacity) -> None:
        self.cpus = {node.id: node.cpus for node in capacity.nodes}
        self.gpus = {node.id: [1.0] * int(node.gpus) for node in capacity.nodes}

    def add(self, node: str, wanted: Wanted) -> bool:
        """Put one replica on a node, on the GPU with the least room for it."""
        if self.cpus[node] + 1e-6 < wanted.cpus:
            return False
        if wanted.gpus:
            able = [(f, i) for i, f in enumerate(self.gpus[node]) if f + 1e-6 >= wanted.gpus]
            if not able:
                return False
            self.gpus[node][min(able)[1]] -= wanted.gpus
        self.cpus[node] -= wanted.cpus
        return True

    def holds(self, wanted: Wanted) -> bool:
        return all(any(self.add(n, wanted) for n in self.cpus) for _ in range(wanted.count))


def used(held: dict[str, Any]) -> dict[tuple[str, Any], float]:
    """What the reservations take of the CPUs of each node, and of each GPU."""
    taken: dict[tuple[str, Any], float] = defaultdict(float)
    for entries in held.values():
        for node, _, cpus, parts in entries:
            taken[node, "cpus"] += cpus
            for gpu, part in parts or ():
                taken[node, gpu] += part
    return taken


async def _workload(
    url: str, capacity: Capacity, workload: list[Wanted], ends: random.Random
) -> None:
    async with connect(url) as redis:
        await redis.flushall()
        store = Store(redis)
        waiting: dict[str, Wanted] = {}
        running: dict[str, Lease] = {}
        coming = sorted(workload, key=lambda wanted: wanted.minute)
        possible = [wanted for wanted in coming if Room(capacity).holds(wanted)]
        limits = {(node.id, "cpus"): node.cpus for node in capacity.nodes}
        begun = 0
        while begun < len(possible):
            for wanted in coming[: ends.randint(0, 3)]:
                spec = job_spec(wanted.cpus, wanted.gpus, count=wanted.count)
                replicas = spec.replicas.model_copy(
                    update={
                        "placement": wanted.placement,
                        "batched": "auto" if wanted.batched and wanted.gpus <= 0.5 else "off",
                    }
                )
                job, _ = await store.create(spec.model_copy(update={"replicas": replicas}))
                assert (job.waiting is None or job.waiting.impossible is None) or (
                    wanted not in possible
                )
                await redis.zadd(keys.QUEUE, {job.id: wanted.minute * 60_000})
                waiting[job.id] = wanted
                coming.remove(wanted)
            lease = await store.claim("scheduler", 1000.0, capacity)
            found: Any = await redis.hgetall(keys.PLACES)
            held = {job.decode(): json.loads(entries) for job, entries in found.items()}
            able = {job: w for job, w in waiting.items() if w in possible}
            first = min(able, key=lambda job: able[job].minute) if able else None
            if lease is not None:
                assert lease.job_id == first
                wanted = waiting.pop(lease.job_id)
                mine = held[lease.job_id]
                assert sum(entry[1] for entry in mine) == wanted.count
                assert sum(entry[2] for entry in mine) == pytest.approx(wanted.cpus * wanted.count)
                running[lease.job_id] = lease
                begun += 1
            elif first is not None:
                room = Room(capacity)  # as the reservations leave it
                for (node, which), amount in used(held).items():
                    if which == "cpus":
                        room.cpus[node] -= amount
                    else:
                        room.gpus[node][which - 1] -= amount
                assert not room.holds(able[first])
            assert set(held) == set(running)
            for which, amount in used(held).items():
                assert amount <= limits.get(which, 1.0) + 1e-6, (which, held)
            if lease is None and running and (not coming or ends.random() < 0.5):
                ended = ends.choice(sorted(running))
                await store.act(running.pop(ended), Action.SUCCEED, "iterations")
        for lease in running.values():
            await store.act(lease, Action.SUCCEED, "iterations")
        assert await redis.hlen(keys.PLACES) == await redis.hlen(keys.RESERVATIONS) == 0
