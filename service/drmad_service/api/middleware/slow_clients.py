"""Closes connections of slow clients.

uvicorn waits without limit for the rest of a request's headers, and for a client to read a
response. A few hundred idle connections would hold memory and file descriptors until others are
refused.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 << 10


class SlowClientProtocol(HttpToolsProtocol):
    """Closes a connection whose headers are late, or whose client stops reading.

    Request bodies have their own limits in request_guard.py, which can still answer them.
    """

    slow_client_timeout_s = 20.0
    """Maximum time for all headers of a request, and for a client to read any further bytes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_since: float | None = self.loop.time()  # an idle connection is late too
        self._header_bytes = 0
        self._left_to_write = 0
        self._schedule_check()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_check.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._headers_since, self._header_bytes = self.loop.time(), 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._headers_since = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_idle = self.cycle is None or self.cycle.response_complete
        if self._headers_since is None and is_idle:
            # Blank lines begin no request, but they cancel uvicorn's own keep-alive timeout.
            self._headers_since = self.loop.time()
        if self._headers_since is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self.transport.abort()

    def _schedule_check(self) -> None:
        self._next_check = self.loop.call_later(self.slow_client_timeout_s / 2, self._check)

    def _check(self) -> None:
        since = self._headers_since
        is_late = since is not None and self.loop.time() - since > self.slow_client_timeout_s
        left_to_write = self.transport.get_write_buffer_size()
        if is_late or (left_to_write and left_to_write == self._left_to_write):
            self.transport.abort()
            return
        self._left_to_write = left_to_write
        self._schedule_check()


def slow_client_protocol(timeout_s: float) -> type[SlowClientProtocol]:
    """The protocol class for uvicorn's `http` option, with this timeout."""
    name = SlowClientProtocol.__name__
    return type(name, (SlowClientProtocol,), {"slow_client_timeout_s": timeout_s})
