"""The state machine of a job: the allowed transitions. Every other transition is refused."""

from __future__ import annotations

from enum import StrEnum

from drmad_client.records.status import JobStatus

_S = JobStatus


class Action(StrEnum):
    """An action on a job, requested by its user or by its scheduler."""

    # Requested by the user
    PAUSE = "pause"  # release the cluster after the running meta-iteration
    RESUME = "resume"  # continue after a pause
    CANCEL = "cancel"  # end it now
    EXTEND = "extend"  # compute further meta-iterations of an ended job
    # Requested by the scheduler
    CLAIM = "claim"  # drive it, from the queue or after its scheduler was lost
    RUN = "run"  # every replica is ready
    YIELD = "yield"  # release the cluster, continue later
    SUCCEED = "succeed"
    FAIL = "fail"


TRANSITIONS: dict[Action, dict[JobStatus, JobStatus]] = {
    Action.PAUSE: {
        _S.QUEUED: _S.PAUSED,
        _S.STARTING: _S.PAUSING,
        _S.RUNNING: _S.PAUSING,
        _S.PAUSING: _S.PAUSING,
        _S.PAUSED: _S.PAUSED,
    },
    Action.RESUME: {
        _S.PAUSED: _S.QUEUED,
        _S.PAUSING: _S.RUNNING,
    },
    Action.CANCEL: {
        _S.QUEUED: _S.CANCELLED,
        _S.PAUSED: _S.CANCELLED,
        _S.STARTING: _S.CANCELLING,
        _S.RUNNING: _S.CANCELLING,
        _S.PAUSING: _S.CANCELLING,
        _S.CANCELLING: _S.CANCELLING,
    },
    Action.EXTEND: {
        _S.SUCCEEDED: _S.QUEUED,
        _S.FAILED: _S.QUEUED,
        _S.CANCELLED: _S.QUEUED,
    },
    Action.CLAIM: {
        _S.QUEUED: _S.STARTING,
        _S.STARTING: _S.STARTING,
        _S.RUNNING: _S.STARTING,
        _S.PAUSING: _S.PAUSING,
        _S.CANCELLING: _S.CANCELLING,
    },
    Action.RUN: {
        _S.STARTING: _S.RUNNING,
        _S.RUNNING: _S.RUNNING,
        _S.PAUSING: _S.PAUSING,
        _S.CANCELLING: _S.CANCELLING,
    },
    Action.YIELD: {
        _S.STARTING: _S.QUEUED,
        _S.RUNNING: _S.QUEUED,
        _S.PAUSING: _S.PAUSED,
        _S.CANCELLING: _S.CANCELLED,
    },
    Action.SUCCEED: {
        _S.STARTING: _S.SUCCEEDED,
        _S.RUNNING: _S.SUCCEEDED,
        _S.PAUSING: _S.SUCCEEDED,
        _S.CANCELLING: _S.CANCELLED,
    },
    Action.FAIL: {
        _S.STARTING: _S.FAILED,
        _S.RUNNING: _S.FAILED,
        _S.PAUSING: _S.FAILED,
        _S.CANCELLING: _S.CANCELLED,
    },
}

DRIVEN = frozenset(TRANSITIONS[Action.YIELD])
"""States in which a scheduler holds a lease of the job."""
