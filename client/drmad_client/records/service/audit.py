"""Entries of the audit log."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from drmad_client.records.base import Record


class AuditEntry(Record):
    """One thing that somebody did, or that a scheduler did with a job."""

    id: str
    at: datetime = Field(description="Time, UTC.")
    by: str = Field(
        description="Id of the API key (`local` for the key of the machine), name of the "
        "scheduler, or user and machine of an operator."
    )
    tenant: str = Field(description="Tenant of the job or of the key.")
    action: str = Field(
        description="Code for programs: the reason of a transition (submitted, user, claimed, "
        "...), renamed, noted, tagged, archived, unarchived, deleted, key_created, key_revoked, "
        "session_opened or session_closed."
    )
    job_id: str | None = Field(default=None, description="Id of the job.")
    key_id: str | None = Field(
        default=None, description="Id of the key that was made, revoked or signed in."
    )
    detail: str = Field(default="", description="Explanation for people.")
