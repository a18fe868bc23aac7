"""The life of a job: which action leads from which state to which. Everything else is refused."""

from __future__ import annotations

from enum import StrEnum

from drmad_client.records import JobStatus

_S = JobStatus


class Action(StrEnum):
    """What somebody wants of a job."""

    CLAIM = "claim"  # a scheduler takes it, from the queue or from one that is gone
    RUN = "run"  # its runner has every replica ready
    RELEASE = "release"  # its scheduler gives it back unfinished
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"  # its user wants it to end now
    STOP = "stop"  # its runner has stopped what the user cancelled


TRANSITIONS: dict[Action, dict[JobStatus, JobStatus]] = {
    Action.CLAIM: {
        _S.QUEUED: _S.STARTING,
        _S.STARTING: _S.STARTING,
        _S.RUNNING: _S.STARTING,
        _S.CANCELLING: _S.CANCELLING,
    },
    Action.RUN: {_S.STARTING: _S.RUNNING},
    Action.RELEASE: {_S.STARTING: _S.QUEUED, _S.RUNNING: _S.QUEUED, _S.CANCELLING: _S.CANCELLED},
    Action.SUCCEED: {_S.RUNNING: _S.SUCCEEDED, _S.CANCELLING: _S.CANCELLED},
    Action.FAIL: {_S.STARTING: _S.FAILED, _S.RUNNING: _S.FAILED, _S.CANCELLING: _S.CANCELLED},
    Action.CANCEL: {
        _S.QUEUED: _S.CANCELLED,
        _S.STARTING: _S.CANCELLING,
        _S.RUNNING: _S.CANCELLING,
        _S.CANCELLING: _S.CANCELLING,
    },
    Action.STOP: {_S.CANCELLING: _S.CANCELLED},
}
