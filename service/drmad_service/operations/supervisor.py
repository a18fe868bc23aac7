"""Supervises the processes of `drmad up`: Redis, one API and one scheduler."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drmad_client.http import local_key
from drmad_service.errors import ServiceStartError
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.operations.folder_lock import is_same, lock_folder, unlock
from drmad_service.operations.home_secrets import (
    ensure_local_key,
    ensure_webhook_secret,
    keep_redis_url,
)
from drmad_service.settings import SupervisorSettings

logger = logging.getLogger(__name__)

_PORT_S = 5.0  # how long a port may stay taken by a service that was killed
_MOST_STARTS = 3
"""Starts of the API that may fail before the service gives up, if it never listened."""


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    restart_at: float = 0.0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.PIPE,  # closes when this process dies, see exit_with_parent
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops them
            )


def supervise(
    home: Path,
    redis_url: str | None,
    serve: Sequence[str],
    schedule: Sequence[str],
    settings: SupervisorSettings,
    port: int,
    announce: Callable[[], None],
) -> None:
    """Runs the service until SIGINT, SIGTERM or SIGHUP, and restarts processes that exit.

    Args:
        home: holds the state, the logs and a lock.
        redis_url: URL of an existing Redis; None runs one under `home`.
        serve, schedule: arguments of `drmad serve` and `drmad schedule`, without Redis's URL.
        port: on which the API listens on this machine.
        announce: is called once the API listens.
    Raises:
        ServiceStartError: another `drmad up` uses this home, the port is taken, or Redis or the API
            did not start.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    with _locked(home) as locks, contextlib.ExitStack() as exits:
        _await_free(port, stopping)
        redis = None if redis_url else EmbeddedRedis(home, settings.max_memory_mib << 20)
        if redis is not None:
            exits.callback(redis.stop)
            redis.start(stopping)
            exits.enter_context(_synced(redis))
        url = redis.url if redis else redis_url or ""
        (home / "logs").mkdir(exist_ok=True)
        ensure_local_key(home)  # the API reads it at its start
        # Secrets stand in files that only this user reads, and never in arguments or variables:
        # processes that are started hand those on.
        environment = {
            "DRMAD_WEBHOOK_SECRET_FILE": str(ensure_webhook_secret(home)),
            **os.environ,
            "DRMAD_REDIS_URL_FILE": str(keep_redis_url(home, url)),
            "DRMAD_HOME": str(home),
            "DRMAD_KEY_FILE": str(local_key.path(home)),
        }
        environment.pop("DRMAD_REDIS_URL", None)
        children = [
            _Child(
                name,
                [sys.executable, "-m", "drmad_client", name, "--exit-with-parent", *arguments],
                environment,
                home / "logs" / f"{name}.log",
            )
            for name, arguments in (("serve", serve), ("schedule", schedule))
        ]
        is_announced = False
        try:
            while not stopping.is_set():
                if not is_same(home, locks):
                    raise ServiceStartError(
                        f"the home {home} was deleted or replaced while drmad ran in it; what its "
                        "Redis held is lost with it, unless a backup has it: see drmad restore"
                    )
                if redis is not None:
                    _keep_redis(redis, stopping)
                for child in children:
                    _keep_running(child, settings)
                if not is_announced and _listens(port):
                    announce()
                    is_announced = True
                if not is_announced and children[0].failures >= _MOST_STARTS:
                    raise ServiceStartError(_why_not_started(children[0]))
                stopping.wait(0.2)
        finally:
            _stop(children, settings.stop_s)


def _keep_redis(redis: EmbeddedRedis, stopping: threading.Event) -> None:
    if not redis.is_running():
        logger.warning("Redis exited; it restarts from its append-only file")
        redis.start(stopping)
    elif not redis.is_reachable():
        logger.warning("the socket of Redis was deleted; Redis restarts")
        redis.stop()
        redis.start(stopping)


def _await_free(port: int, stopping: threading.Event) -> None:
    """Waits until nobody listens: the API of a service that was killed may just be ending.

    Raises:
        ServiceStartError: another program keeps the port.
    """
    deadline = time.monotonic() + _PORT_S
    while True:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
                return
            except OSError as error:
                if stopping.wait(0.2) or time.monotonic() > deadline:
                    raise ServiceStartError(
                        f"cannot listen at port {port} of 127.0.0.1: {error.strerror}; stop the "
                        "program that uses it, or choose another port with --port"
                    ) from error


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def _why_not_started(child: _Child) -> str:
    lines = child.log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
    return f"drmad {child.name} does not start; {child.log} ends with:\n" + "\n".join(lines)


@contextmanager
def _synced(redis: EmbeddedRedis) -> Iterator[None]:
    """Flushes Redis's acknowledged writes to the disk every second."""
    ending = threading.Event()

    def sync() -> None:
        while not ending.wait(1.0):
            try:
                redis.sync()
            except OSError:
                logger.exception("cannot flush Redis's append-only file to the disk")

    thread = threading.Thread(target=sync, daemon=True, name="sync")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(1.0)  # a disk that hangs does not keep the service from ending


def exit_with_parent() -> None:
    """Sends this process SIGTERM when its parent dies, which closes the standard input."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="exit-with-parent").start()


def _keep_running(child: _Child, settings: SupervisorSettings) -> None:
    now = time.monotonic()
    if child.process is None:
        if now >= child.restart_at:
            child.started_at = now
            child.start()
    elif (code := child.process.poll()) is not None:
        child.process = None
        settled = now - child.started_at > settings.settled_s
        child.failures = 1 if settled else child.failures + 1
        delay_s = min(0.5 * 2 ** (child.failures - 1), settings.longest_restart_s)
        child.restart_at = now + delay_s
        logger.warning(
            "%s exited with status %s; it restarts in %.1f s; see %s",
            child.name,
            code,
            delay_s,
            child.log,
        )


def _stop(children: Sequence[_Child], timeout_s: float) -> None:
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + timeout_s
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _locked(home: Path) -> Iterator[Sequence[int]]:
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    locks = lock_folder(home)
    if locks is None:
        raise ServiceStartError(
            f"another drmad up uses the home {home}; stop it, or choose another --home"
        )
    try:
        yield locks
    finally:
        unlock(locks)
