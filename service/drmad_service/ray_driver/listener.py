"""Drives Ray for schedulers on other machines: one process for each connection.

A scheduler that holds secrets is then on no machine of the Ray cluster, and user code on no machine
of the scheduler.
"""

from __future__ import annotations

import hmac
import logging
import os
import signal
import socket
import subprocess
import threading

from drmad_service.errors import ServiceStartError
from drmad_service.ray_driver.codec import LENGTH, Undecodable, decode
from drmad_service.ray_driver.environment import worker_environment
from drmad_service.ray_driver.launch import session_command
from drmad_service.ray_driver.sockets import cluster_token, keep_alive

logger = logging.getLogger(__name__)

_GREETING_BYTES, _GREETING_S = 4096, 10.0
MOST_SESSIONS = 16
"""Schedulers that may be connected at once: each takes a process of about 150 MB."""


class Listener:
    """Accepts schedulers that know the token of the Ray cluster."""

    def __init__(self, host: str, port: int, ray_address: str, token: str) -> None:
        """
        Raises:
            ServiceStartError: the address is taken, or there is no token.
        """
        if not token:
            raise ServiceStartError(
                "whoever connects runs code on the Ray cluster: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on its nodes"
            )
        self._ray_address = ray_address
        self._token = token
        self._sessions: list[subprocess.Popen[bytes]] = []
        try:
            self._server = socket.create_server((host, port), backlog=MOST_SESSIONS)
        except OSError as error:
            raise ServiceStartError(
                f"cannot listen at {host}:{port}: {error.strerror}; choose another --listen"
            ) from error
        self.port: int = self._server.getsockname()[1]

    def run(self) -> None:
        """Accept connections until `close`."""
        while True:
            try:
                connection, (address, *_) = self._server.accept()
            except OSError:
                return
            threading.Thread(
                target=self._greet, args=(connection, address), daemon=True, name="greeting"
            ).start()

    def close(self) -> None:
        """End all sessions."""
        self._server.close()
        for session in self._sessions:
            session.terminate()
        for session in self._sessions:
            session.wait()

    def _greet(self, connection: socket.socket, address: str) -> None:
        with connection:
            try:
                connection.settimeout(_GREETING_S)
                if (greeting := _greeting(connection)) is None:
                    return  # a probe of whether somebody listens
                if not hmac.compare_digest(greeting, self._token.encode()):
                    logger.warning("refused a connection from %s: it has another token", address)
                    return
            except (OSError, Undecodable, ValueError) as error:
                logger.warning("refused a connection from %s: %s", address, error)
                return
            self._sessions = [each for each in self._sessions if each.poll() is None]
            if len(self._sessions) >= MOST_SESSIONS:
                logger.warning("refused a connection from %s: %d are open", address, MOST_SESSIONS)
                return
            connection.settimeout(None)
            keep_alive(connection)
            self._sessions.append(
                subprocess.Popen(
                    session_command(connection.fileno(), self._ray_address),
                    env=worker_environment(os.environ),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[connection.fileno()],
                )
            )
            logger.info("drives Ray for the scheduler at %s", address)


def listen(host: str, port: int, ray_address: str) -> None:
    """Drive Ray until SIGINT or SIGTERM."""
    listener = Listener(host, port, ray_address, cluster_token(os.environ))
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    threading.Thread(target=listener.run, daemon=True, name="accepting").start()
    logger.info("drives Ray for schedulers at port %d", listener.port)
    stopping.wait()
    listener.close()


def _greeting(connection: socket.socket) -> bytes | None:
    """The token with which a scheduler greets; None if the other side says nothing and ends."""
    if not connection.recv(1, socket.MSG_PEEK):
        return None
    (length,) = LENGTH.unpack(_read(connection, LENGTH.size))
    if length > _GREETING_BYTES:
        raise Undecodable(f"its greeting has {length} bytes")
    word, token = decode(_read(connection, length))
    if word != "hello" or not isinstance(token, str):
        raise Undecodable("it does not greet")
    return token.encode()


def _read(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        if not (part := connection.recv(length - len(content))):
            raise Undecodable("it ended before its greeting")
        content += part
    return content
