"""How a driver stops: it releases the job, or it begins again with new replicas."""

from __future__ import annotations

from typing import NoReturn

from drmad_client.records.job import JobError
from drmad_client.records.status import JobStatus
from drmad_service.store.layout.state_machine import Action
from drmad_workers.ray_actor.failures import ARTIFACTS_FAIL, OUT_OF_MEMORY
from drmad_workers.ray_actor.messages import Failure

PREEMPTED = "preempted by a job of higher priority"


class JobReleased(Exception):
    """The driver stops driving the job; carries the transition that the store records."""

    def __init__(
        self, action: Action, reason: str, message: str = "", error: JobError | None = None
    ) -> None:
        super().__init__(reason)
        self.transition = action, reason, message, error


class ReplicaFailed(Exception):
    """A replica reported a failure that a new replica may survive."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def apply_control(status: JobStatus, between_iterations: bool = False) -> None:
    """Release the job when its user cancelled it, or paused it and no meta-iteration runs.

    Raises:
        JobReleased
    """
    if status is JobStatus.CANCELLING:
        raise JobReleased(Action.YIELD, "cancelled", "cancelled by its user")
    if status is JobStatus.PAUSING and between_iterations:
        raise JobReleased(Action.YIELD, "paused", "paused by its user")


def fail(failure: Failure) -> NoReturn:
    """Fail the job with the failure of a replica."""
    message = encodable(failure.message)
    error = JobError(
        code=failure.code,
        message=message,
        iteration=failure.iteration,
        step=failure.step,
        traceback=failure.traceback and encodable(failure.traceback),
    )
    raise JobReleased(Action.FAIL, failure.code, message, error)


def encodable(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 has, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def fail_or_retry(failure: Failure) -> NoReturn:
    """Fail the job, except for what counts as the loss of a replica.

    That is a lack of memory, and an artifact store that fails.
    """
    if failure.code in (OUT_OF_MEMORY, ARTIFACTS_FAIL):
        raise ReplicaFailed(failure)
    fail(failure)
