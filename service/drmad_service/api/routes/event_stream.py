"""A job's events as they happen: server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query
from sse_starlette import EventSourceResponse, ServerSentEvent

from drmad_client.records.job import Event, JobStatus, Progress
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.job_changes import Changes
from drmad_service.api.routes.dependencies import (
    PROBLEM,
    AccessDependency,
    ChangesDependency,
    JobId,
    SettingsDependency,
    StoreDependency,
)
from drmad_service.api.stream_limits import in_its_place
from drmad_service.store import Store

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

_EVENT = {
    "type": "object",
    "description": "One event of the stream; its data is an Event as JSON.",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}


@router.get(
    "/events",
    dependencies=[in_its_place],
    response_class=EventSourceResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": _EVENT}}},
        400: PROBLEM,
        404: PROBLEM,
        422: PROBLEM,
    },
)
async def events(
    job_id: JobId,
    store: StoreDependency,
    changes: ChangesDependency,
    settings: SettingsDependency,
    access: AccessDependency,
    principal: PrincipalDependency,
    last_event_id: Annotated[
        str | None, Header(max_length=64, description="Go on after this event.")
    ] = None,
    after: Annotated[
        str | None, Query(max_length=64, description="Likewise, where no header can be set.")
    ] = None,
) -> EventSourceResponse:
    """Every event since the submission, then each as it happens, to the job's end.

    `progress` events carry no id: they are not kept, and only the newest counts.
    """
    last_event_id = last_event_id or after
    try:
        await store.events(job_id, last_event_id, limit=1)
    except ValueError as error:
        raise HTTPException(400, f"Last-Event-ID: {error}") from error
    await store.get(job_id)

    async def may_go_on() -> bool:
        return await access.still_knows(principal)

    stream = _stream(
        store, changes, job_id, last_event_id or None, settings.keep_alive_s, may_go_on
    )
    return EventSourceResponse(stream, ping=settings.keep_alive_s, send_timeout=settings.patience_s)


async def _stream(
    store: Store,
    changes: Changes,
    job_id: str,
    after: str | None,
    look_again_s: float,
    may_go_on: Callable[[], Awaitable[bool]],
) -> AsyncIterator[ServerSentEvent]:
    """Ends with the job, and when the key is revoked."""
    shown: Progress | None = None
    async with changes.watch(job_id) as changed:
        while not changes.over and await may_go_on():
            changed.clear()
            batch = await store.events(job_id, after)
            for event in batch:
                after = event.id
                yield _sent(event)
            if batch:
                continue
            job = await store.get(job_id)
            if job.status.is_terminal:
                # An event may have come between the two looks: none is written after the last.
                for event in await store.events(job_id, after):
                    yield _sent(event)
                return
            if job.progress != shown and job.status is JobStatus.RUNNING:
                shown = job.progress
                yield _progress(shown)
            try:
                await asyncio.wait_for(changed.wait(), look_again_s)
            except TimeoutError:
                continue


def _sent(event: Event) -> ServerSentEvent:
    return ServerSentEvent(event.model_dump_json(), event=event.type, id=event.id)


def _progress(progress: Progress) -> ServerSentEvent:
    event = Event(
        id="", at=datetime.now(UTC), type="progress", data=progress.model_dump(mode="json")
    )
    return ServerSentEvent(event.model_dump_json(), event="progress")
