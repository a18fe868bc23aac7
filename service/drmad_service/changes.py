"""Tells waiting requests that a job changed: one Redis subscription a process, for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator

from redis.exceptions import RedisError

from drmad_service.store import Store

logger = logging.getLogger(__name__)


class Changes:
    """Wakes whoever watches a job. A wake-up says "look again" and never what changed.

    The store's logs are the truth; a message that Redis loses costs one keep-alive interval.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def run(self) -> None:
        """Listen until cancelled; reconnects when Redis goes away."""
        while True:
            try:
                async for job_id in self._store.changes():
                    for watcher in self._watchers_of(job_id):
                        watcher.set()
            except RedisError as error:
                logger.warning("lost the change channel: %s", error)
            await asyncio.sleep(0.5)

    @contextlib.asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever the job changed since it was last cleared; "": any job."""
        changed = asyncio.Event()
        self._watchers[job_id].add(changed)
        try:
            yield changed
        finally:
            self._watchers[job_id].discard(changed)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    def _watchers_of(self, job_id: str) -> list[asyncio.Event]:
        if job_id:
            return [*self._watchers.get(job_id, ()), *self._watchers.get("", ())]
        return [watcher for watchers in self._watchers.values() for watcher in watchers]
