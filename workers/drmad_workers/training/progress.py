"""Progress reports and requests to stop, handled between steps."""

import time
from collections.abc import Callable

from drmad_workers.errors import Stopped

POLL_S = 0.02
"""The least time between two reports, in seconds."""

OnProgress = Callable[[str, int, int], None]


class Monitor:
    """Calls `should_stop` and `on_progress`, at most every POLL_S seconds."""

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
        self._report()

    def advance(self, count: int = 1) -> None:
        """Notes that `count` more steps of the phase are done."""
        self.done += count
        if time.perf_counter() >= self._next:
            self._report()

    def poll(self) -> None:
        self.advance(0)

    def end(self) -> None:
        self._report()

    def _report(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise Stopped(self.phase, self.done)
        if self._on_progress is not None:
            self._on_progress(self.phase, self.done, self.total)
        self._next = time.perf_counter() + POLL_S
