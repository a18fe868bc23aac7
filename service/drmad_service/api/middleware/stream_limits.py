"""Limits the event streams and waiting requests of a process, in total and per key."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from fastapi import Depends, Request
from prometheus_client import Gauge

from drmad_service.api.auth.api_keys import Principal
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.errors import TooManyStreams


class StreamLimits:
    """Counts the open event streams and waiting requests of one API process."""

    def __init__(self, most: int, most_of_a_key: int, gauge: Gauge) -> None:
        self._most, self._most_of_a_key = most, most_of_a_key
        self._open: Counter[str] = Counter()
        self._gauge = gauge

    @contextlib.contextmanager
    def hold(self, principal: Principal) -> Iterator[None]:
        """Counts one stream of the principal's key until the block ends.

        Raises:
            TooManyStreams: the limit of the key or of the process is reached.
        """
        key = principal.key_id
        if self._open[key] >= self._most_of_a_key:
            raise TooManyStreams("of this key", self._most_of_a_key)
        if self._open.total() >= self._most:
            raise TooManyStreams("of this process", self._most)
        self._open[key] += 1
        self._gauge.inc()
        try:
            yield
        finally:
            self._gauge.dec()
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]


async def _held(request: Request, principal: PrincipalDependency) -> AsyncIterator[None]:
    """Holds until the response has ended, however it ends."""
    limits: StreamLimits = request.app.state.stream_limits
    with limits.hold(principal):
        yield


counts_as_stream = Depends(_held, scope="request")
"""Dependency of the routes that stream."""
