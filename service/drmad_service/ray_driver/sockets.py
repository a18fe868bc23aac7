"""Connections between machines: how they end, and the token with which they begin."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from drmad_service.errors import ServiceStartError


def keep_alive(connection: socket.socket) -> None:
    """Have the system end a connection whose other machine is gone, after half a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if option := getattr(socket, name, None):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def cluster_token(environment: Mapping[str, str]) -> str:
    """The token of the Ray cluster that Ray's own variables give; empty without one."""
    if token := environment.get("RAY_AUTH_TOKEN"):
        return token
    if path := environment.get("RAY_AUTH_TOKEN_PATH"):
        try:
            with open(path, encoding="ascii") as file:
                return file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ServiceStartError(f"cannot read Ray's token from {path}: {error}") from error
    return ""
