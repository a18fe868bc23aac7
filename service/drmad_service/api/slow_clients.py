"""HTTP for clients in no hurry: whoever sends or reads too slowly is hung up on.

uvicorn waits for ever for the rest of a request, and for a reader of an answer. A few hundred
connections that say nothing would hold memory and file descriptors until others find no place.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEADER_BYTES = 64 << 10


class SlowClientProtocol(HttpToolsProtocol):
    """Ends a connection whose headers, or whose reader, make no headway.

    Bodies have their own limits, in middleware.py, where they can still be answered.
    """

    patience_s = 20.0
    """For the whole of a request's headers, and for a reader to take anything at all."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_since: float | None = self.loop.time()  # a connection that says nothing, too
        self._header_bytes = 0
        self._left_to_write = 0
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
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
            # Blank lines begin no request, but they end uvicorn's own wait for the next one.
            self._headers_since = self.loop.time()
        if self._headers_since is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MOST_HEADER_BYTES:
                self.transport.abort()

    def _look_again(self) -> None:
        self._look = self.loop.call_later(self.patience_s / 2, self._check)

    def _check(self) -> None:
        since = self._headers_since
        too_slow = since is not None and self.loop.time() - since > self.patience_s
        waiting = self.transport.get_write_buffer_size()
        if too_slow or (waiting and waiting == self._left_to_write):
            self.transport.abort()
            return
        self._left_to_write = waiting
        self._look_again()


def patient(patience_s: float) -> type[Any]:
    """The protocol for uvicorn's `http`, with so much patience."""
    return type("Patient", (SlowClientProtocol,), {"patience_s": patience_s})
