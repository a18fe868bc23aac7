"""What the service asks of Ray: its capacity, and the replicas of a job, all placed or none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from drmad_client.spec.job import JobSpec
from drmad_service.errors import ServiceStartError
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity
from drmad_workers.ray_actor.actor import THREADS, Replica


class RayLost(ServiceStartError):
    """Ray no longer answers; the scheduler must be started again."""


async def ray_capacity(settings: SchedulerSettings) -> Capacity:
    """What the cluster has.

    Raises:
        RayLost: it does not answer, or the local one has lost its only node.
    """
    try:
        async with asyncio.timeout(settings.ray_timeout_s):
            total = await asyncio.to_thread(ray.cluster_resources)
    except (TimeoutError, RayError) as error:
        raise RayLost(f"Ray does not answer: {error}") from error
    if settings.ray_address == "local" and not total.get("CPU"):
        raise RayLost("the local Ray lost its only node")
    return Capacity(
        total.get("CPU", 0.0), total.get("GPU", 0.0), settings.tenant_jobs, settings.tenant_gpus
    )


def runtime(spec: JobSpec) -> dict[str, Any]:
    """The options of an actor in whose environment the job's requirements are installed."""
    problem = spec.problem
    if problem.kind != "code" or not problem.requirements:
        return {}
    return {"runtime_env": {"pip": list(problem.requirements)}}


def beside_jobs() -> dict[str, Any]:
    """The options of an actor that takes no CPU from any job, on a node that has some to give.

    A node without CPUs holds a head or a scheduler, and no torch.
    """
    nodes = [node for node in _nodes() if node["Resources"].get("CPU")]
    if not nodes:  # the first that joins
        return {"num_cpus": 1}
    largest = max(nodes, key=lambda node: (node["Resources"]["CPU"], node["NodeID"]))
    strategy = NodeAffinitySchedulingStrategy(largest["NodeID"], soft=False)
    return {"num_cpus": 0, "scheduling_strategy": strategy}


def _nodes() -> list[dict[str, Any]]:
    """Those that are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


class ReplicaGroup:
    """Handles of a job's replica actors. Its methods talk to Ray and may block.

    Attributes:
        actors: one for each replica, or for each batch of them.
    """

    def __init__(
        self,
        spec: JobSpec,
        data_roots: Sequence[str],
        uploads: str,
        code: bytes | None,
        memory_bytes: int = 0,
    ) -> None:
        """`code` is the archive of the user's code, where the problem is their own."""
        self._spec = spec
        self._code = code
        self._data_roots = list(data_roots)
        self._uploads = uploads
        self._memory_bytes = (
            0 if spec.resources.gpus else spec.resources.memory_bytes or memory_bytes
        )
        self._group: Any = None
        self._numbers: list[list[int]] = []
        self.actors: list[Any] = []

    def reserve(self) -> Any:
        """Ask for the places of all replicas at once. Returns a reference to wait for, or None."""
        resources, replicas = self._spec.resources, self._spec.replicas
        together = self._batch()
        numbers = range(replicas.count)
        self._numbers = [[*numbers[i : i + together]] for i in range(0, replicas.count, together)]
        if len(self._numbers) == 1:
            return None
        bundles = [
            {"CPU": resources.cpus * len(batch)}
            | ({"GPU": resources.gpus * len(batch)} if resources.gpus else {})
            for batch in self._numbers
        ]
        self._group = placement_group(bundles, strategy=replicas.placement.upper())
        return self._group.ready()

    def create(self) -> None:
        """Start the actors in the places reserved for them."""
        spec, resources = self._spec.model_dump_json(), self._spec.resources
        code = ray.put(self._code)  # once, however many replicas there are
        for index, numbers in enumerate(self._numbers):
            strategy = (
                PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
                if self._group is not None
                else "DEFAULT"
            )
            cpus = resources.cpus * len(numbers)
            actor = Replica.options(  # type: ignore[attr-defined]
                num_cpus=cpus,
                num_gpus=resources.gpus * len(numbers),
                max_concurrency=THREADS,
                scheduling_strategy=strategy,
                **runtime(self._spec),
            )
            places = (self._data_roots, self._uploads)
            self.actors.append(
                actor.remote(spec, numbers, cpus, *places, code, self._memory_bytes * len(numbers))
            )

    def first(self, index: int) -> int:
        """Number of the first replica of an actor."""
        return self._numbers[index][0]

    def kill(self) -> None:
        """End the actors at once, whatever they do, and free their places."""
        for actor in self.actors:
            with contextlib.suppress(RayError):
                ray.kill(actor)
        self.actors = []
        if self._group is not None:
            with contextlib.suppress(RayError):
                remove_placement_group(self._group)
        self._group = None

    def _batch(self) -> int:
        """How many replicas share a device: as many as a GPU, or else the largest node, holds."""
        resources, replicas = self._spec.resources, self._spec.replicas
        if replicas.batched == "off" or resources.gpus > 0.5:
            return 1
        if resources.gpus:
            return min(replicas.count, int(1.0 / resources.gpus + 1e-9))
        cpus = max((node["Resources"].get("CPU", 0.0) for node in _nodes()), default=0.0)
        return max(1, min(replicas.count, int(cpus / resources.cpus + 1e-9)))
