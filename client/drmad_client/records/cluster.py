"""What the cluster has, what runs on it, and what waits for it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.status import JobStatus


class Node(Record):
    """One machine of a Ray cluster."""

    id: str = Field(description="Ray's own; replicas tell on which they ran.")
    name: str = Field(description="The machine's host name.")
    address: str
    alive: bool
    cpus: float
    gpus: float
    memory_bytes: int = 0
    gpu_kind: str = ""


class SchedulerView(Record):
    """What one scheduler sees of its Ray cluster."""

    scheduler: str
    at: datetime
    nodes: list[Node]


class Placement(Record):
    """A job on the cluster, or on its way there."""

    id: str | None = Field(
        description="null for a job of another tenant, of which no more is told."
    )
    name: str
    tenant: str
    status: JobStatus
    priority: int
    cpus: float = Field(description="CPU cores of all its replicas.")
    gpus: float = Field(description="GPUs of all its replicas.")
    since: datetime = Field(description="When it entered its state.")
    nodes: list[str] = Field(
        default=[], description="Ids of the nodes on which its last meta-iteration ran."
    )
    message: str = Field(default="", description="Why it waits.")


class Cluster(Record):
    """The cluster at a glance."""

    schedulers: list[SchedulerView]
    cpus: float = Field(description="Of all living nodes.")
    gpus: float = Field(description="Of all living nodes.")
    reserved_cpus: float = Field(description="Reserved for the jobs that run.")
    reserved_gpus: float = Field(description="Reserved for the jobs that run.")
    running: list[Placement]
    queue: list[Placement] = Field(
        description="In the order in which they will run; of a long queue its beginning."
    )
    queued: int = Field(default=0, description="How many jobs wait.")
