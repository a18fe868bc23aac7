"""How many requests may wait for changes at once, all together and of one key."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from fastapi import Depends, Request
from prometheus_client import Gauge

from drmad_service.api.auth.api_keys import Principal
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.errors import TooManyStreams


class Streams:
    """Event streams and long polls of one API process."""

    def __init__(self, most: int, most_of_a_key: int, gauge: Gauge) -> None:
        self._most, self._most_of_a_key = most, most_of_a_key
        self._open: Counter[str] = Counter()
        self._gauge = gauge

    @contextlib.contextmanager
    def place(self, principal: Principal) -> Iterator[None]:
        """Hold one place.

        Raises:
            TooManyStreams: all are taken.
        """
        key = principal.key_id
        if self._open[key] >= self._most_of_a_key:
            raise TooManyStreams("of this key", self._most_of_a_key)
        if self._open.total() >= self._most:
            raise TooManyStreams("of this service", self._most)
        self._open[key] += 1
        self._gauge.inc()
        try:
            yield
        finally:
            self._gauge.dec()
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]


async def _place(request: Request, principal: PrincipalDependency) -> AsyncIterator[None]:
    """Held until the answer has ended, however it ends."""
    streams: Streams = request.app.state.streams
    with streams.place(principal):
        yield


in_its_place = Depends(_place, scope="request")
"""For the routes that stream."""
