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


class NodeReservation(Record):
    """What the replicas of running jobs reserve of one node."""

    cpus: float = Field(default=0.0, description="Number of reserved CPU cores.")
    gpus: float = Field(default=0.0, description="Number of reserved GPUs; parts of one add up.")
    replicas: int = Field(default=0, description="Number of replicas on the node.")
    jobs: list[str] = Field(
        default=[],
        description="Ids of the jobs, and of validations and retrainings, that the caller may see.",
    )


class UseSample(Record):
    """The use of the cluster at one minute."""

    at: datetime
    cpus: float
    gpus: float
    reserved_cpus: float
    reserved_gpus: float
    running: int
    queued: int


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
    cpus: float = Field(description="Number of CPU cores that its replicas need together.")
    gpus: float = Field(description="Number of GPUs that its replicas need together.")
    since: datetime = Field(description="Time at which the job entered its state, UTC.")
    nodes: list[str] = Field(
        default=[], description="Ids of the nodes on which its last meta-iteration ran."
    )
    message: str = Field(default="", description="Reason why the job waits.")


class Cluster(Record):
    """The nodes, the capacity, the running jobs and the queue."""

    schedulers: list[SchedulerView]
    cpus: float = Field(description="Number of CPU cores of all living nodes.")
    gpus: float = Field(description="Number of GPUs of all living nodes.")
    reserved_cpus: float = Field(description="Number of CPU cores reserved for running jobs.")
    reserved_gpus: float = Field(description="Number of GPUs reserved for running jobs.")
    reserved: dict[str, NodeReservation] = Field(
        default={}, description="Reservations by the id of the node."
    )
    running: list[Placement]
    queue: list[Placement] = Field(
        description="Queued jobs in the order in which they will run; a long queue is truncated."
    )
    queued: int = Field(default=0, description="Number of queued jobs.")
