"""Progress and the wish to stop, heard between steps."""

import time
from collections.abc import Callable

from drmad_workers.errors import Stopped

POLL_S = 0.02

OnProgress = Callable[[str, int, int], None]


class Monitor:
    """Asks `should_stop` and tells `on_progress`, at most every POLL_S seconds of work."""

    def __init__(
        self,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._should_stop = should_stop
        self._on_progress = on_progress
        self._next = 0.0
        self.phase = ""
        self.total = 0
        self.done = 0

    def begin(self, phase: str, total: int) -> None:
        self.phase, self.total, self.done = phase, total, 0
        self._tell()

    def advance(self, count: int = 1) -> None:
        """`count` more steps of the phase are done."""
        self.done += count
        if time.perf_counter() >= self._next:
            self._tell()

    def poll(self) -> None:
        self.advance(0)

    def end(self) -> None:
        self._tell()

    def _tell(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise Stopped(self.phase, self.done)
        if self._on_progress is not None:
            self._on_progress(self.phase, self.done, self.total)
        self._next = time.perf_counter() + POLL_S
