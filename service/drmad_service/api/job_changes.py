"""Notifies waiting requests that a job changed, through one Redis subscription per process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator

from redis.exceptions import RedisError

from drmad_service.store import Store

logger = logging.getLogger(__name__)

_PAUSE_S = 0.1


class JobChanges:
    """Wakes the watchers of a job. A notification means "read again"; it never says what changed.

    The store is the truth: a notification that Redis loses delays a watcher by one keep-alive
    interval.
    """

    def __init__(self, store: Store, pause_s: float) -> None:
        """`pause_s` is the maximum delay between two attempts to reconnect to Redis."""
        self._store = store
        self._pause_s = pause_s
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self.closed = False
        """Set when the process ends; waiting requests then return at once."""

    def close(self) -> None:
        """Wakes all watchers for the last time, because the process ends."""
        self.closed = True
        for watcher in self._watchers_of(""):
            watcher.set()

    async def run(self) -> None:
        """Listens until cancelled; reconnects when Redis goes away."""
        pause_s = _PAUSE_S
        while True:
            try:
                async for job_id in self._store.changes():
                    pause_s = _PAUSE_S
                    for watcher in self._watchers_of(job_id):
                        watcher.set()
            except RedisError as error:
                logger.warning("lost the subscription to job changes, will reconnect: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(2.0 * pause_s, self._pause_s)

    @contextlib.asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the job changes; the job id "" stands for every job."""
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
