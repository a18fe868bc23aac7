"""The API on a port of its own, in a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from drmad_service.app import create_app
from drmad_service.patience import patient
from drmad_service.settings import ApiSettings


@contextmanager
def serving(settings: ApiSettings) -> Iterator[tuple[str, int]]:
    """Its address."""
    config = uvicorn.Config(
        create_app(settings),
        port=0,
        log_config=None,
        http=patient(settings.patience_s),
        timeout_keep_alive=1,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    listening = config.bind_socket()
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
