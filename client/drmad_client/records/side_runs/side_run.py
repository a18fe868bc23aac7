"""A run beside a job's meta-iterations, on workers that no job needs."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.job import JobError


class SideRun(Record):
    """Base of the runs beside a job: validations and retrainings."""

    id: str
    job_id: str
    status: Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
    requested_at: datetime
    finished_at: datetime | None = None
    done: int = Field(default=0, description="Training runs that are done.")
    total: int = Field(default=0, description="All training runs; 0 while they are not known.")
    workers: int = Field(default=0, description="Workers that train side by side.")
    error: JobError | None = None

    @property
    def is_finished(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")
