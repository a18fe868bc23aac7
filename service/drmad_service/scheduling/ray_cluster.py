"""The Ray cluster of a scheduler: its capacity, the replicas of jobs, room for preflights."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from drmad_client.spec.job import JobSpec
from drmad_service.ray_driver.connection import CallFailed, RayDriver, RayLost
from drmad_service.scheduling.replica_group import ReplicaGroup, Replicas
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, NodeCapacity


class ComputeCluster(Protocol):
    """The machines on which the replicas of jobs run."""

    async def capacity(self) -> Capacity:
        """The capacity of the cluster by node, and the limits of a tenant.

        Raises:
            RayLost: the cluster does not answer, or a local one has lost its only node.
        """
        ...

    def replicas(self, spec: JobSpec, code: bytes | None, job_id: str) -> Replicas:
        """The replicas of a job, none of them placed yet.

        Args:
            code: the archive of the user's code, for a problem of kind `code`.
        """
        ...


class RayCluster:
    """A Ray cluster, by the connection to the process that drives it."""

    def __init__(self, settings: SchedulerSettings, driver: RayDriver) -> None:
        self._settings = settings
        self._driver = driver
        self._warmed: set[str] = set()

    async def capacity(self) -> Capacity:
        settings = self._settings
        try:
            async with asyncio.timeout(settings.ray_timeout_s):
                found = await living_nodes(self._driver)
        except (TimeoutError, CallFailed) as error:
            raise RayLost(f"Ray does not answer: {error}") from error
        nodes = [
            NodeCapacity(node["NodeID"], cpus, node["Resources"].get("GPU", 0.0))
            for node in found
            if (cpus := node["Resources"].get("CPU", 0.0))
        ]
        self._warm({node.id for node in nodes})
        is_local = settings.ray_address == "local" and not settings.ray_driver
        if is_local and not nodes:
            raise RayLost("the local Ray lost its only node")
        return Capacity.of(
            nodes,
            tenant_jobs=settings.tenant_jobs,
            tenant_gpus=settings.tenant_gpus,
            tenant_replicas=settings.tenant_replicas,
            autoscaler=settings.autoscaler,
            tenants=settings.tenants,
            not_tenants=settings.not_tenants,
        )

    def replicas(self, spec: JobSpec, code: bytes | None, job_id: str) -> Replicas:
        return ReplicaGroup(
            spec,
            self._driver,
            data_roots=[str(root) for root in self._settings.data_roots],
            uploads=str(self._settings.data_dir),
            code=code,
            memory_bytes=self._settings.replica_memory_bytes,
            artifacts=self._settings.job_artifacts(job_id),
            warm=self._settings.warm_workers,
        )

    def _warm(self, nodes: set[str]) -> None:
        """Keep idle processes on nodes that are new."""
        if self._settings.warm_workers:
            for node in nodes - self._warmed:
                self._driver.warm(node, self._settings.warm_workers)
        self._warmed = nodes


async def living_nodes(driver: RayDriver) -> list[dict[str, Any]]:
    """Ray's descriptions of the nodes that are alive.

    Raises:
        CallFailed, RayLost: Ray does not answer.
    """
    return [node for node in await driver.nodes() if node["Alive"]]


async def place_beside_jobs(driver: RayDriver) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """Options and place of an actor that reserves no CPU, on the node with the most CPUs.

    A node without CPUs holds a head or a driver, and no torch.
    """
    nodes = [node for node in await living_nodes(driver) if node["Resources"].get("CPU")]
    if not nodes:  # the first node that joins
        return {"num_cpus": 1}, None
    largest = max(nodes, key=lambda node: (node["Resources"]["CPU"], node["NodeID"]))
    return {"num_cpus": 0}, ("node", largest["NodeID"])
