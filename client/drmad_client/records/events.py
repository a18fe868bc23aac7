"""The events of a job, and the lines that its replicas print."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from drmad_client.records.base import Record


class LogLine(Record):
    """A line that the workers of a job, or of a run beside it, printed."""

    id: str = Field(description="Id of the line; pass it as `after` for the lines that follow.")
    at: datetime
    replica: int
    source: str = Field(
        default="",
        description='What printed it: a replica ("0"), a further worker that shares its training '
        'runs ("0.1"), or a worker of a run beside the job ("validation 0").',
    )
    text: str


class Event(Record):
    """An event of a job; events are listed in the order in which they happened."""

    id: str = Field(description="Id of the event; pass it as Last-Event-ID to continue after it.")
    at: datetime
    type: Literal[
        "status",
        "trial",
        "start",
        "iteration",
        "arrival",
        "rollback",
        "progress",
        "warning",
        "webhook",
        "validation",
        "retraining",
        "reset",
    ]
    data: dict[str, Any] = Field(
        description="Data of the event, by its type. status: a Transition. trial: a Trial. start: "
        "a Start, the result of the search. iteration: a MetaIteration. arrival: an Arrival. "
        "progress: a Progress. rollback: {iteration, rollback, message}, where rollback is the "
        "number of rollbacks in a row. warning: {code, message}. webhook: {event, channel, host, "
        "outcome, attempts, message}. validation, retraining: {id, status}. reset: the Job, if "
        "earlier events are no longer kept."
    )
