"""Events of a job, and log lines of its replicas."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from drmad_client.records.events import Event, LogLine
from drmad_client.records.pages import Page
from drmad_service.store.base import Base
from drmad_service.store.layout import decoding, keys

_EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")


class Events(Base):
    """Streams that can be read from any position."""

    async def events(self, job_id: str, after: str | None = None, limit: int = 500) -> list[Event]:
        """Events after the id `after`, preceded by `reset` when earlier ones are no longer kept.

        Raises:
            ValueError: `after` is no event id.
        """
        key = keys.job(job_id, "events")
        entries = await self._entries(key, after, limit)
        events = [decoding.event(entry, fields) for entry, fields in entries]
        if entries and await self._trimmed(key, after):
            job = await self.get(job_id)
            reset = Event(
                id=after or "0-0", at=events[0].at, type="reset", data=job.model_dump(mode="json")
            )
            return [reset, *events]
        return events

    async def logs(
        self, job_id: str, after: str | None = None, replica: int | None = None, limit: int = 100
    ) -> Page[LogLine]:
        """Log lines after the line `after`, of one replica or of all.

        Raises:
            ValueError: `after` is no line id.
        """
        await self._must_exist(job_id)
        found = await self._left_out(job_id, after)
        while len(found) <= limit:
            entries = await self._entries(keys.job(job_id, "logs"), after, limit + 1)
            if not entries:
                break
            lines = [decoding.log_line(entry, fields) for entry, fields in entries]
            found += [line for line in lines if replica is None or _is_of(line, replica)]
            after = lines[-1].id
        page = found[:limit]
        return Page(data=page, has_more=len(found) > limit, next=page[-1].id if page else after)

    async def _left_out(self, job_id: str, after: str | None) -> list[LogLine]:
        """The line that says how many lines before the first kept one are gone; mostly none."""
        key = keys.job(job_id, "logs")
        if not await self._redis.exists(key):
            return []
        info = await self._redis.xinfo_stream(key)
        gone = info["entries-added"] - info["length"]
        if not gone or not info["first-entry"]:
            return []
        entry, fields = info["first-entry"]
        first = decoding.log_line(entry, fields)
        time_ms, number = decoding.order(entry)
        before = (time_ms, number - 1) if number else (time_ms - 1, 0)
        if after is not None and decoding.order(after.encode()) >= before:
            return []
        text = f"… {gone:,} earlier lines are no longer kept: a job keeps its last lines"
        return [first.model_copy(update={"id": f"{before[0]}-{before[1]}", "text": text})]

    async def changes(self) -> AsyncIterator[str]:
        """Ids of jobs as they change, preceded by "" once the subscription is active."""
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(keys.CHANGES)
            async for message in pubsub.listen():
                if message["type"] == "subscribe":
                    yield ""
                elif message["type"] == "message":
                    yield message["data"].decode()

    async def _entries(self, key: str, after: str | None, limit: int) -> Any:
        if after is not None and not _EVENT_ID.fullmatch(after):
            raise ValueError(f"an id has the form 1763912345678-0, got {after!r}")
        return await self._redis.xrange(key, min=f"({after}" if after else "-", count=limit)

    async def _trimmed(self, key: str, after: str | None) -> bool:
        """Whether events after this one are no longer kept: it precedes the first kept one."""
        info = await self._redis.xinfo_stream(key)
        if info["entries-added"] == info["length"]:
            return False
        return after is None or decoding.order(info["first-entry"][0]) > decoding.order(after)


def _is_of(line: LogLine, replica: int) -> bool:
    """Whether the replica, or a further worker of it, printed the line."""
    return line.source.partition(".")[0] == f"{replica}"
