"""What the store hands to schedulers, and takes from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drmad_client.records import Best, Progress

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
class Step:
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
