"""The cluster: its nodes, the running jobs and the queue."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.status import JobStatus


class Node(Record):
    """One machine of a Ray cluster."""

    id: str = Field(description="Ray's id of the node; replicas report the node on which they ran.")
    name: str = Field(description="The machine's host name.")
    address: str
    alive: bool
    cpus: float
    gpus: float
    memory_bytes: int = 0
    gpu_kind: str = ""


class SchedulerView(Record):
    """The nodes of one scheduler's Ray cluster."""

    scheduler: str
    at: datetime
    nodes: list[Node]


class Placement(Record):
    """A job that runs on the cluster or is queued for it."""

    id: str | None = Field(
        description="Id of the job; null for a job of another tenant, whose details are hidden."
    )
    name: str
    tenant: str
    status: JobStatus
    priority: int
    cpus: float = Field(description="CPU cores that all its replicas need.")
    gpus: float = Field(description="GPUs that all its replicas need.")
    since: datetime = Field(description="Time at which it entered its state.")
    nodes: list[str] = Field(
        default=[], description="Ids of the nodes on which its last meta-iteration ran."
    )
    message: str = Field(default="", description="Reason why it waits.")


class Cluster(Record):
    """The cluster at a glance."""

    schedulers: list[SchedulerView]
    cpus: float = Field(description="CPU cores of all living nodes.")
    gpus: float = Field(description="GPUs of all living nodes.")
    reserved_cpus: float = Field(description="CPU cores reserved for running jobs.")
    reserved_gpus: float = Field(description="GPUs reserved for running jobs.")
    running: list[Placement]
    queue: list[Placement] = Field(
        description="Queued jobs in the order in which they will run; a long queue is cut short."
    )
    queued: int = Field(default=0, description="Number of queued jobs.")
