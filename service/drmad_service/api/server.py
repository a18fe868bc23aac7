"""uvicorn with the API's limits: it closes slow connections and shuts down in order."""

from __future__ import annotations

import socket
import sys

import uvicorn
from fastapi import FastAPI

from drmad_service.api.middleware.slow_clients import slow_client_protocol
from drmad_service.settings import ApiSettings


class Server(uvicorn.Server):
    """A server that ends event streams and waiting requests before it closes connections."""

    def __init__(self, app: FastAPI, settings: ApiSettings, host: str, port: int) -> None:
        self._app = app
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                forwarded_allow_ips=["127.0.0.1", "::1", *settings.trusted_proxies],
                http=slow_client_protocol(settings.slow_client_timeout_s),
                limit_concurrency=settings.most_connections,
                timeout_graceful_shutdown=3,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.changes.close()
        await super().shutdown(sockets)


def run(server: Server) -> None:
    """Serves until SIGINT or SIGTERM; exits with status 3 if the server cannot start."""
    server.run()
    if not server.started:
        sys.exit(3)
