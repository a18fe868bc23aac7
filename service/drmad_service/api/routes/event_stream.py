"""The events of a job as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header
from sse_starlette import EventSourceResponse, ServerSentEvent

from drmad_client.records.events import Event
from drmad_client.records.job import Progress
from drmad_client.records.status import JobStatus
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.job_changes import JobChanges
from drmad_service.api.middleware.stream_limits import counts_as_stream
from drmad_service.api.routes.dependencies import (
    ENTRY_ID,
    PROBLEM,
    AccessDependency,
    ChangesDependency,
    EntryCursor,
    SettingsDependency,
    StoreDependency,
    VisibleJobId,
)
from drmad_service.store import Store

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

_EVENT = {
    "type": "object",
    "description": "One event of the stream; `data` holds an Event as JSON.",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}


@router.get(
    "/events",
    dependencies=[counts_as_stream],
    response_class=EventSourceResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": _EVENT}}},
        404: PROBLEM,
        422: PROBLEM,
    },
)
async def events(
    job_id: VisibleJobId,
    store: StoreDependency,
    changes: ChangesDependency,
    settings: SettingsDependency,
    access: AccessDependency,
    principal: PrincipalDependency,
    last_event_id: Annotated[
        str | None,
        ENTRY_ID,
        Header(max_length=64, description="Id of the last event that the client received."),
    ] = None,
    after: EntryCursor = None,
) -> EventSourceResponse:
    """Stream every event since the submission, and each new one until the job ends.

    `after` replaces the header Last-Event-ID where a client cannot set it. Events of type
    `progress` have no id: the service does not keep them.
    """
    last_event_id = last_event_id or after
    await store.get(job_id)

    async def is_authorized() -> bool:
        return await access.still_knows(principal)

    stream = _stream(
        store, changes, job_id, last_event_id or None, settings.keep_alive_s, is_authorized
    )
    return EventSourceResponse(
        stream, ping=settings.keep_alive_s, send_timeout=settings.slow_client_timeout_s
    )


async def _stream(
    store: Store,
    changes: JobChanges,
    job_id: str,
    after: str | None,
    poll_s: float,
    is_authorized: Callable[[], Awaitable[bool]],
) -> AsyncIterator[ServerSentEvent]:
    """Ends with the job, or when the key is revoked."""
    shown: Progress | None = None
    async with changes.watch(job_id) as changed:
        while not changes.closed and await is_authorized():
            changed.clear()
            batch = await store.events(job_id, after)
            for event in batch:
                after = event.id
                yield _sent(event)
            if batch:
                continue
            job = await store.get(job_id)
            if job.status.is_terminal:
                # The job may have ended between the two reads; no event follows its last one.
                for event in await store.events(job_id, after):
                    yield _sent(event)
                return
            if job.progress != shown and job.status is JobStatus.RUNNING:
                shown = job.progress
                yield _progress(shown)
            try:
                await asyncio.wait_for(changed.wait(), poll_s)
            except TimeoutError:
                continue


def _sent(event: Event) -> ServerSentEvent:
    return ServerSentEvent(event.model_dump_json(), event=event.type, id=event.id)


def _progress(progress: Progress) -> ServerSentEvent:
    event = Event(
        id="", at=datetime.now(UTC), type="progress", data=progress.model_dump(mode="json")
    )
    return ServerSentEvent(event.model_dump_json(), event="progress")
