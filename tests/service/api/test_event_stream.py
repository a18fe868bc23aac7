"""The event stream: nothing lost, nothing repeated, however often a reader comes back."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.records.events import Event
from drmad_client.records.job import Progress
from drmad_client.spec.job import JobSpec
from drmad_service.api.job_changes import JobChanges
from drmad_service.api.routes.event_stream import _stream
from drmad_service.cancellation import cancel_and_wait
from drmad_service.store import Lease, Store, StoreSettings
from drmad_service.store.layout.state_machine import Action
from tests.service.store.test_store import CAPACITY, started, step, with_changes

pytestmark = pytest.mark.anyio

POLL_S = 30.0
"""Longer than a test may take: every event must be notified, not found by a later poll."""


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[JobChanges]:
    changes = JobChanges(store, pause_s=0.5)
    task = asyncio.create_task(changes.run())
    try:
        yield changes
    finally:
        await cancel_and_wait([task])


async def read(
    store: Store, changes: JobChanges, job_id: str, after: str | None, most: int
) -> tuple[list[str], bool]:
    """Ids of up to `most` events after one, and whether the stream ended by itself."""
    seen: list[str] = []

    async def may_go_on() -> bool:
        return True

    stream = _stream(store, changes, job_id, after, POLL_S, may_go_on)
    async for event in stream:
        if event.id is not None:
            seen.append(event.id)
        if len(seen) == most:
            await stream.aclose()  # type: ignore[attr-defined]
            return seen, False
    return seen, True


async def write(store: Store, lease: Lease, iterations: int, chance: random.Random) -> None:
    for iteration in range(iterations):
        await store.progress(lease, Progress(iterations=iterations, step=iteration))
        if chance.random() < 0.5:
            await store.warn(lease, "noise", str(iteration))
        await store.commit(lease, step(iteration))
        await asyncio.sleep(chance.random() * 0.002)
    await store.act(lease, Action.SUCCEED, "iterations")


async def test_readers_that_break_off_and_resume_anywhere_see_every_event_once(
    store: Store, spec: JobSpec
) -> None:
    lease = await started(store, spec)

    async def reader(chance: random.Random) -> list[str]:
        seen: list[str] = []
        is_over = False
        while not is_over:
            after = seen[-1] if seen else None
            more, is_over = await read(store, changes, lease.job_id, after, chance.randint(1, 9))
            seen += more
        return seen

    async with listening(store) as changes:
        writing = write(store, lease, 40, random.Random(0))
        readers = [reader(random.Random(number)) for number in range(8)]
        async with asyncio.timeout(POLL_S - 5.0):
            _, *seen = await asyncio.gather(writing, *readers)
    written = [event.id for event in await store.events(lease.job_id)]
    assert len(written) > 40
    for ids in seen:
        assert ids == written


async def test_stream_goes_on_after_an_extension(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    await write(store, lease, 1, random.Random(0))
    async with listening(store) as changes:
        first, is_over = await read(store, changes, lease.job_id, None, 1000)
        assert is_over
        longer = with_changes(spec, meta={"iterations": 9})
        await store.extend(await store.get(lease.job_id), longer)
        reading = asyncio.create_task(read(store, changes, lease.job_id, first[-1], 1000))
        again = await store.claim("scheduler", 10.0, CAPACITY)
        assert again is not None
        await store.commit(again, step(1))
        await store.act(again, Action.SUCCEED, "iterations")
        async with asyncio.timeout(POLL_S - 5.0):
            rest, is_over = await reading
    assert is_over
    assert [*first, *rest] == [event.id for event in await store.events(lease.job_id)]


async def test_reader_whose_place_is_gone_gets_the_job_and_what_is_kept(
    api: httpx.AsyncClient, redis: Redis, spec: JobSpec
) -> None:
    store = Store(redis, StoreSettings(events_kept=10))
    lease = await started(store, spec)
    early = (await store.events(lease.job_id))[0].id
    for number in range(300):
        await store.warn(lease, "noise", str(number))
    await store.act(lease, Action.SUCCEED, "iterations")
    for headers in ({"Last-Event-ID": early}, {}):
        answer = await api.get(f"/v1/jobs/{lease.job_id}/events", headers=headers)
        lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        events = [Event.model_validate(json.loads(line.removeprefix("data: "))) for line in lines]
        assert events[0].type == "reset"
        assert events[0].data["id"] == lease.job_id
        assert [event.id for event in events[1:]] == [
            event.id for event in (await store.events(lease.job_id, early))[1:]
        ]
