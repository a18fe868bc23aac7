"""The states of a job, and its changes of state."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from drmad_client.records.base import Record


class JobStatus(StrEnum):
    """The state of a job."""

    QUEUED = "queued"  # accepted; it waits for a scheduler and for capacity
    STARTING = "starting"  # claimed by a scheduler; replicas are placed and the problem is built
    RUNNING = "running"  # meta-iterations are being computed
    PAUSING = "pausing"  # a pause is requested; the running meta-iteration ends first
    PAUSED = "paused"  # holds nothing on the cluster until it is resumed
    CANCELLING = "cancelling"  # a cancellation is requested; its replicas are being stopped
    SUCCEEDED = "succeeded"  # it committed all meta-iterations, or patience ended it
    FAILED = "failed"  # ended by an error; see `error`
    CANCELLED = "cancelled"  # ended by its user

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class Transition(Record):
    """One change of a job's state."""

    status: JobStatus = Field(description="State that the job entered.")
    at: datetime = Field(description="Time of the change, UTC.")
    reason: str = Field(description="Code for programs: submitted, claimed, diverged, ...")
    message: str = Field(default="", description="Explanation for people.")
    by: str | None = Field(
        default=None,
        description="Who asked for it: the id of an API key (`local` for that of the machine), or "
        "the name of a scheduler; null in records of earlier releases.",
    )
