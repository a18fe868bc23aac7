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

_PAUSE_S = 0.1


class Changes:
    """Wakes whoever watches a job. A wake-up says "look again" and never what changed.

    The store's logs are the truth; a message that Redis loses costs one keep-alive interval.
    """

    def __init__(self, store: Store, pause_s: float) -> None:
        """`pause_s` at most between two tries to reach Redis again."""
        self._store = store
        self._pause_s = pause_s
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self.over = False
        """Nobody need wait any more."""

    def close(self) -> None:
        """Wake everybody for the last time: this process ends."""
        self.over = True
        for watcher in self._watchers_of(""):
            watcher.set()

    async def run(self) -> None:
        """Listen until cancelled; reconnects when Redis goes away."""
        pause_s = _PAUSE_S
        while True:
            try:
                async for job_id in self._store.changes():
                    pause_s = _PAUSE_S
                    for watcher in self._watchers_of(job_id):
                        watcher.set()
            except RedisError as error:
                logger.warning("lost the change channel: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(2.0 * pause_s, self._pause_s)

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
