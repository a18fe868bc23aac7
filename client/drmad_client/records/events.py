"""The events of a job, and the lines that its replicas print."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from drmad_client.records.base import Record


class LogLine(Record):
    """A log line of a replica."""

    id: str = Field(description="Id of the line; pass it as `after` for the lines that follow.")
    at: datetime
    replica: int
    text: str


class Event(Record):
    """Something that happened to a job, in the order in which it happened."""

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
        "reset",
    ]
    data: dict[str, Any] = Field(
        description="status: a Transition. trial: a Trial. start: a Start, what the "
        "search found. iteration: a MetaIteration. arrival: an Arrival. progress: a Progress. "
        "rollback: {iteration, rollback, message}; rollback counts them in a row. "
        "warning: {code, message}. webhook: {host, outcome, attempts, message}. "
        "reset: the Job, when earlier events are no longer kept."
    )
