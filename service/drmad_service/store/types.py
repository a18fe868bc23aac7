"""What the store hands to schedulers, and takes from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drmad_client.records.job import Best, Progress
from drmad_service.flags import setting

UNLIMITED = 1e9


@dataclass(frozen=True)
class Lease:
    """The right to drive a job, as long as no newer fence exists."""

    job_id: str
    fence: str


@dataclass(frozen=True)
class Capacity:
    """What there is to give to jobs."""

    cpus: float
    gpus: float
    tenant_jobs: float = UNLIMITED
    """Jobs that one tenant may have running."""
    tenant_gpus: float = UNLIMITED
    """GPUs that one tenant may have in use."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a job goes on: the state before meta-iteration `iteration`."""

    iteration: int
    tensors: bytes
    scalars: dict[str, Any]


@dataclass(frozen=True)
class MetaIterationCommit:
    """What one meta-iteration leaves behind.

    `next_state` is the state after it; `hypergradient` and `model` are safetensors, the model None
    when it is too large to keep; `record` is a MetaIteration without its time; `best` says that
    it is the best so far.
    """

    iteration: int
    record: dict[str, Any]
    next_state: ResumePoint
    hypergradient: bytes
    model: bytes | None
    progress: Progress
    best: Best | None


@dataclass(frozen=True)
class StoreSettings:
    """What must be the same for every process of a service."""

    redis_timeout_s: float = setting(5.0, "Seconds that a connection to Redis may take.", 0.1)
    redis_pause_s: float = setting(
        2.0, "Seconds between two tries to reach Redis again, at most.", 0.1
    )
    events_kept: int = setting(10_000, "Events of a job, the last.", 100)
    vector_bytes: int = setting(
        256 << 20, "Of a job's states and hypergradients; the middle ones go first.", 0
    )
    point_s: float = setting(60.0, "Seconds of waiting that count as one point of priority.", 0.001)
    share_s: float = setting(
        300.0, "Seconds that a running job puts the waiting ones of its tenant back.", 0
    )
    scheduler_silent_s: float = setting(
        30.0, "Seconds after which a scheduler that tells nothing is not counted.", 1
    )
    repeat_s: float = setting(
        24 * 3600.0, "Seconds that an Idempotency-Key is remembered with its job.", 1
    )
