"""The Ray cluster of a scheduler: its capacity, the replicas of jobs, room for preflights."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from drmad_client.spec.job import JobSpec
from drmad_service.errors import ServiceStartError
from drmad_service.scheduling.replica_group import ReplicaGroup, Replicas, living_nodes
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, NodeCapacity


class RayLost(ServiceStartError):
    """Ray no longer answers; the scheduler must be started again."""


class ComputeCluster(Protocol):
    """The machines on which the replicas of jobs run."""

    async def capacity(self) -> Capacity:
        """The capacity of the cluster by node, and the limits of a tenant.

        Raises:
            RayLost: the cluster does not answer, or a local one has lost its only node.
        """
        ...

    def replicas(self, spec: JobSpec, code: bytes | None) -> Replicas:
        """The replicas of a job, none of them placed yet.

        Args:
            code: the archive of the user's code, for a problem of kind `code`.
        """
        ...


class RayCluster:
    """The Ray cluster to which this process is connected."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings

    async def capacity(self) -> Capacity:
        settings = self._settings
        try:
            async with asyncio.timeout(settings.ray_timeout_s):
                found = await asyncio.to_thread(living_nodes)
        except (TimeoutError, RayError) as error:
            raise RayLost(f"Ray does not answer: {error}") from error
        nodes = [
            NodeCapacity(node["NodeID"], cpus, node["Resources"].get("GPU", 0.0))
            for node in found
            if (cpus := node["Resources"].get("CPU", 0.0))
        ]
        if settings.ray_address == "local" and not nodes:
            raise RayLost("the local Ray lost its only node")
        return Capacity.of(
            nodes,
            tenant_jobs=settings.tenant_jobs,
            tenant_gpus=settings.tenant_gpus,
            tenant_replicas=settings.tenant_replicas,
            autoscaler=settings.autoscaler,
        )

    def replicas(self, spec: JobSpec, code: bytes | None) -> Replicas:
        return ReplicaGroup(
            spec,
            data_roots=[str(root) for root in self._settings.data_roots],
            uploads=str(self._settings.data_dir),
            code=code,
            memory_bytes=self._settings.replica_memory_bytes,
        )


def options_beside_jobs() -> dict[str, Any]:
    """The options of an actor that reserves no CPU, on the node with the most CPUs.

    A node without CPUs holds a head or a scheduler, and no torch.
    """
    nodes = [node for node in living_nodes() if node["Resources"].get("CPU")]
    if not nodes:  # the first node that joins
        return {"num_cpus": 1}
    largest = max(nodes, key=lambda node: (node["Resources"]["CPU"], node["NodeID"]))
    strategy = NodeAffinitySchedulingStrategy(largest["NodeID"], soft=False)
    return {"num_cpus": 0, "scheduling_strategy": strategy}
