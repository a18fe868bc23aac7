"""What jobs and tenants use, and what tenants may use."""

from __future__ import annotations

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.spec.base import Spec


class Usage(Record):
    """Reserved time: a job that holds two CPUs for a minute uses 120 CPU seconds."""

    cpu_seconds: float = Field(default=0.0, description="Seconds times reserved CPU cores.")
    gpu_seconds: float = Field(default=0.0, description="Seconds times reserved GPUs.")


class TenantLimits(Record):
    """The limits of a tenant; null is no limit."""

    queued_jobs: int | None = None
    running_jobs: int | None = None
    replicas: int | None = None
    gpus: float | None = None
    stored_bytes: int | None = None
    uploads: int | None = None


class OwnTenantLimits(Spec):
    """Limits of one tenant alone; null leaves the limit of the service, 0 permits nothing."""

    queued_jobs: int | None = Field(default=None, ge=0, description="Queued and paused jobs.")
    running_jobs: int | None = Field(default=None, ge=0, description="Running jobs.")
    replicas: int | None = Field(default=None, ge=0, description="Running replicas.")
    gpus: float | None = Field(default=None, ge=0, description="GPUs in use.")
    stored_bytes: int | None = Field(default=None, ge=0, description="Bytes that it stores, about.")
    uploads: int | None = Field(default=None, ge=0, description="Uploads under way at once.")


class LimitsOfTenant(Record):
    """The limits that a tenant has of its own; null is the limit of the service."""

    tenant: str
    limits: TenantLimits


class TenantUsage(Record):
    """What a tenant used since the service began to count, and what it holds now."""

    tenant: str
    total: Usage = Field(description="Of ended and released jobs, and of validations.")
    queued_jobs: int = Field(description="Queued and paused jobs.")
    running_jobs: int = Field(description="Jobs and validations that hold a reservation.")
    replicas: int = Field(description="Their replicas.")
    cpus: float = Field(description="CPU cores that they reserve.")
    gpus: float = Field(description="GPUs that they reserve.")
    stored_bytes: int = Field(
        description="About what its jobs keep in Redis, and the size of its uploads."
    )
    limits: TenantLimits
