"""Values that the store exchanges with schedulers, and the settings of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.dataclasses import dataclass as pydantic_dataclass

from drmad_client.records.job import Best, Progress
from drmad_service.flags import setting
from drmad_workers.artifacts.job_artifacts import Kept


@dataclass(frozen=True)
class Lease:
    """The right to drive a job, as long as no newer fencing token exists."""

    job_id: str
    fence: str


@dataclass(frozen=True)
class ResumePoint:
    """The state before meta-iteration `iteration`, from which a job resumes.

    Large tensors are an artifact, of which schedulers and Redis have the name alone.
    """

    iteration: int
    tensors: Kept
    scalars: dict[str, Any]


@dataclass(frozen=True)
class MetaIterationCommit:
    """The results of one meta-iteration.

    Attributes:
        record: fields of a MetaIteration without its time.
        next_state: the state after the meta-iteration.
        hypergradient: safetensors, or its artifact.
        model: safetensors, or its artifact; None when the model is larger than the service keeps.
        best: set when the meta-iteration is the best so far.
        training: the training state of each replica after a window of an online job; empty where
            no checkpoint is due.
    """

    iteration: int
    record: dict[str, Any]
    next_state: ResumePoint
    hypergradient: Kept
    model: Kept | None
    progress: Progress
    best: Best | None
    training: Sequence[ResumePoint] = ()


@pydantic_dataclass(frozen=True)
class StoreSettings:
    """Settings that must be equal in every process of a service."""

    redis_timeout_s: float = setting(
        5.0, "Maximum time to open a connection to Redis, in seconds.", 0.1
    )
    redis_pause_s: float = setting(
        2.0, "Maximum delay between two attempts to reconnect to Redis, in seconds.", 0.1
    )
    events_kept: int = setting(
        10_000, "Maximum events kept per job; the oldest are dropped first.", 1
    )
    vector_bytes: int = setting(
        256 << 20,
        "Maximum size of a job's stored states and hypergradients, in bytes; those of "
        "intermediate meta-iterations are dropped first.",
        0,
    )
    checkpoint_bytes: int = setting(
        256 << 20,
        "Maximum size of the stored training states of an online job, in bytes; intermediate ones "
        "are dropped first, and the last two are always kept.",
        0,
    )
    point_s: float = setting(
        60.0, "Waiting time that equals one point of a job's priority, in seconds.", 0.001
    )
    share_s: float = setting(
        300.0,
        "Waiting time that each running job of a tenant costs the tenant's queued jobs, in "
        "seconds.",
        0,
    )
    scheduler_silent_s: float = setting(
        30.0, "Time after which a scheduler that sends no report counts as gone, in seconds.", 1
    )
    unplaced_s: float = setting(
        10.0,
        "Time that a job whose replicas could not be placed waits before it is claimed again, in "
        "seconds; it doubles each time, and ends when the nodes change.",
        0,
    )
    longest_unplaced_s: float = setting(
        900.0,
        "Maximum time that a job whose replicas could not be placed waits before it is claimed "
        "again, in seconds.",
        0,
    )
    repeat_s: float = setting(
        24 * 3600.0, "Time that the service remembers an Idempotency-Key, in seconds.", 1
    )
