"""The API on a port of its own, in a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from drmad_service.api.app import create_app
from drmad_service.api.server import Server
from drmad_service.settings import ApiSettings


@contextmanager
def serving(settings: ApiSettings) -> Iterator[tuple[str, int]]:
    """Its address."""
    server = Server(create_app(settings), settings, "127.0.0.1", 0)
    listening = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            thread.join(0.02)
            assert thread.is_alive()
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
