"""uvicorn as the API runs it: patient with nobody, and with an answer for all when it ends."""

from __future__ import annotations

import socket
import sys

import uvicorn
from fastapi import FastAPI

from drmad_service.api.slow_clients import patient
from drmad_service.settings import ApiSettings


class Server(uvicorn.Server):
    """A server that ends what waits for changes before it closes."""

    def __init__(self, app: FastAPI, settings: ApiSettings, host: str, port: int) -> None:
        self._app = app
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                http=patient(settings.patience_s),
                limit_concurrency=settings.most_connections,
                timeout_graceful_shutdown=3,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.changes.close()
        await super().shutdown(sockets)


def serve(server: Server) -> None:
    """Until SIGINT or SIGTERM; exits with 3 where it could not start."""
    server.run()
    if not server.started:
        sys.exit(3)
