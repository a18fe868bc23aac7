"""The capacity of a cluster by node, and what it holds of a job.

The scripts place the replicas (lua/placement.lua); this module says why they cannot.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drmad_client.spec.job import JobSpec

UNLIMITED = 1e9
_SLACK = 1e-6
"""Fractions of a GPU do not add up exactly."""


@dataclass(frozen=True)
class NodeCapacity:
    """What one node has for jobs, or what is free of it.

    Attributes:
        free_gpus: the free part of each GPU; None when nothing is in use.
    """

    id: str
    cpus: float
    gpus: float
    free_gpus: tuple[float, ...] | None = None

    def slots(self, needs: Needs) -> int:
        """How many replicas fit at once. A replica has one GPU, or a part of one."""
        fitting = math.floor((self.cpus + _SLACK) / needs.cpus)
        if needs.gpus:
            parts = self.parts
            if needs.gpus <= 1.0:
                beside = sum(math.floor((free + _SLACK) / needs.gpus) for free in parts)
            else:  # of an earlier release: several whole GPUs
                whole = sum(free >= 1.0 - _SLACK for free in parts)
                beside = whole // math.ceil(needs.gpus)
            fitting = min(fitting, beside)
        return max(0, fitting)

    @property
    def parts(self) -> tuple[float, ...]:
        whole = math.floor(self.gpus + _SLACK)
        return (1.0,) * whole if self.free_gpus is None else self.free_gpus

    def without(self, entry: Sequence[Any]) -> NodeCapacity:
        """What is left beside an entry of a reservation, see lua/placement.lua."""
        parts = [*self.parts]
        for gpu, part in entry[3] or ():  # Lua writes an empty list as {}
            if gpu <= len(parts):
                parts[gpu - 1] -= part
        return replace(self, cpus=self.cpus - entry[2], free_gpus=tuple(parts))


@dataclass(frozen=True)
class Needs:
    """What a job needs: CPUs and GPUs of each of its replicas."""

    cpus: float
    gpus: float
    count: int = 1

    @classmethod
    def of(cls, spec: JobSpec) -> Needs:
        return cls(spec.resources.cpus, spec.resources.gpus, spec.replicas.count)

    def held_by(self, nodes: Sequence[NodeCapacity]) -> int:
        """How many of the replicas the nodes hold at once."""
        return min(self.count, sum(node.slots(self) for node in nodes))

    def refusal(self, nodes: Sequence[NodeCapacity]) -> str | None:
        """Why nodes that are empty cannot hold the job; None when they can."""
        if self.held_by(nodes) == self.count:
            return None
        gpus, cpus = [math.floor(n.gpus + _SLACK) for n in nodes], [node.cpus for node in nodes]
        for wanted, there, unit in ((self.gpus, gpus, "GPU"), (self.cpus, cpus, "CPU")):
            largest, total = max(there, default=0), sum(there)
            if wanted > largest + _SLACK and largest:
                return f"no node has {counted(wanted, unit)}; the largest has {largest:g}"
            if wanted * self.count > total + _SLACK:
                return f"needs {counted(wanted * self.count, unit)}, the cluster has {total:g}"
        if not self.held_by(nodes):
            return f"no node has {self.each} together"
        return (
            f"the nodes hold {self.held_by(nodes)} of its {self.count} replicas at once, each with "
            f"{self.each}"
        )

    @property
    def each(self) -> str:
        """What one replica needs, in words."""
        cpus = counted(self.cpus, "CPU")
        return f"{cpus} and {counted(self.gpus, 'GPU')}" if self.gpus else cpus


@dataclass(frozen=True)
class Capacity:
    """The capacity of a cluster, and the bounds of a tenant.

    Attributes:
        tenant_jobs: maximum running jobs of a tenant.
        tenant_gpus: maximum GPUs in use by a tenant.
        tenant_replicas: maximum running replicas of a tenant.
        nodes: the living nodes; without them, the CPUs and GPUs are those of a single one.
        autoscaler: the nodes that an autoscaler could add at most.
        tenants: those whose jobs run on this cluster; none stands for all.
        not_tenants: those whose jobs never do.
    """

    cpus: float
    gpus: float
    tenant_jobs: float = UNLIMITED
    tenant_gpus: float = UNLIMITED
    nodes: tuple[NodeCapacity, ...] = ()
    autoscaler: tuple[NodeCapacity, ...] = ()
    tenant_replicas: float = UNLIMITED
    tenants: tuple[str, ...] = ()
    not_tenants: tuple[str, ...] = ()

    @classmethod
    def of(cls, nodes: Sequence[NodeCapacity], **bounds: Any) -> Capacity:
        """The capacity of these nodes; `bounds` are the other fields."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        return cls(cpus, gpus, nodes=tuple(sorted(nodes, key=lambda node: node.id)), **bounds)

    def serves(self, tenant: str) -> bool:
        """Whether jobs of a tenant run on this cluster, as in lua/placement.lua."""
        return tenant not in self.not_tenants and (not self.tenants or tenant in self.tenants)

    def described(self) -> str:
        """What the scripts read, as JSON: the same for the same nodes and bounds."""
        nodes = self.nodes or (NodeCapacity("", self.cpus, self.gpus),)
        return json.dumps(
            {
                "nodes": [_described(node) for node in nodes],
                "autoscaler": [_described(node) for node in self.autoscaler],
                "cpus": self.cpus,
                "gpus": self.gpus,
                "tenant_jobs": self.tenant_jobs,
                "tenant_gpus": self.tenant_gpus,
                "tenant_replicas": self.tenant_replicas,
                "tenants": self.tenants,
                "not_tenants": self.not_tenants,
            }
        )


def announced(fields: Mapping[str, Any]) -> Capacity:
    """The capacity that a scheduler announced; one of an earlier release announces no nodes."""
    return Capacity(
        fields["cpus"],
        fields["gpus"],
        fields.get("tenant_jobs", UNLIMITED),
        fields.get("tenant_gpus", UNLIMITED),
        tuple(NodeCapacity(**node) for node in fields.get("nodes", ()))
        or (NodeCapacity("", fields["cpus"], fields["gpus"]),),
        tuple(NodeCapacity(**node) for node in fields.get("autoscaler", ())),
        fields.get("tenant_replicas", UNLIMITED),
        tuple(fields.get("tenants", ())),
        tuple(fields.get("not_tenants", ())),
    )


@dataclass(frozen=True)
class Placed:
    """Replicas that one node holds; on GPUs, those that share one."""

    node: str
    replicas: int


def placed(entries: str) -> list[Placed]:
    """The places that a script returned."""
    return [Placed(entry[0], entry[1]) for entry in json.loads(entries or "[]")]


def counted(count: float, unit: str) -> str:
    return f"{count:g} {unit}{'' if count == 1 else 's'}"


def _described(node: NodeCapacity) -> dict[str, Any]:
    return {"id": node.id, "cpus": node.cpus, "gpus": node.gpus}
