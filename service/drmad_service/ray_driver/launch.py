"""Connects a scheduler to a process that drives Ray: one that it starts, or one that listens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from drmad_service.ray_driver import confinement
from drmad_service.ray_driver.codec import encode
from drmad_service.ray_driver.connection import RayDriver, RayLost
from drmad_service.ray_driver.environment import worker_environment
from drmad_service.ray_driver.sockets import keep_alive
from drmad_service.ray_driver.temporary_folder import temporary_folder
from drmad_service.ray_driver.worker_user import WorkerUser

logger = logging.getLogger(__name__)

_END_S = 4.0
"""How long the process may take to end Ray."""
_BUFFER_BYTES = 1 << 24


@dataclass(frozen=True)
class Workers:
    """What processes of this machine that run user code may do.

    Attributes:
        variables: names of environment variables, besides those of the fixed list.
        closed: folders and files of the service that they may not open.
        readable: folders of data, which may lie below closed ones.
        writable: folders of results, which may lie below closed ones too.
        user: the user as whom they run; "" keeps that of this process.
        warm: how many of them wait for a job with torch imported.
    """

    variables: Sequence[str] = ()
    closed: Sequence[Path] = ()
    readable: Sequence[Path] = ()
    writable: Sequence[Path] = ()
    user: str = ""
    warm: int = 0


@asynccontextmanager
async def launched(
    address: str, cpus: float | None, workers: Workers | None = None
) -> AsyncIterator[RayDriver]:
    """A process that is connected to the Ray cluster at `address`, until the context ends.

    Raises:
        ServiceStartError: it could not connect to Ray, or cannot run as `workers.user`.
    """
    workers = workers or Workers()
    environment = worker_environment(os.environ, workers.variables)
    user = WorkerUser.named(workers.user) if workers.user else None
    if user is not None:
        await asyncio.to_thread(user.must_run, environment)
        user.let_read(workers.readable, workers.closed)
        user.let_write(workers.writable, workers.closed)
        environment = user.environment(environment)
    elif confinement.is_available():
        # Caches of data and models; beside a closed folder no new ones can be made later.
        with contextlib.suppress(OSError, RuntimeError):
            (Path.home() / ".cache").mkdir(mode=0o700, exist_ok=True)
    elif workers.closed:
        logger.warning(
            "user code can read the files of this user, the keys of the service among them: this "
            "system has no Landlock; start drmad as root with --worker-user, or on a newer Linux"
        )
    paths = [f"--closed={path}" for path in workers.closed]
    paths += [f"--readable={path}" for path in workers.readable]
    paths += [f"--writable={path}" for path in workers.writable]
    with contextlib.ExitStack() as exits:
        if address == "local":
            own = exits.enter_context(temporary_folder(user.user_id if user else None))
            paths.append(f"--writable={own}")
            environment |= {
                "TMPDIR": str(own),
                "RAY_TMPDIR": str(own),
                # Nobody else on this machine sends tasks to our cluster.
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
            }
        if workers.warm:
            paths.append(f"--warm={workers.warm}")
        process, connection = _started(address, cpus, paths, environment, user)
        try:
            driver = RayDriver(*await asyncio.open_connection(sock=connection, limit=_BUFFER_BYTES))
            try:
                await driver.start(
                    "the process that drives Ray has ended at its start; the scheduler's log has "
                    "its last lines"
                )
                yield driver
            finally:
                await driver.close()
        finally:
            await _ended(process)


@asynccontextmanager
async def connected(host: str, port: int, token: str) -> AsyncIterator[RayDriver]:
    """A connection to `drmad ray-driver` on another machine.

    Raises:
        ServiceStartError: nobody listens there, or it refuses the connection.
    """
    where = f"the Ray driver at {host}:{port}"
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=_BUFFER_BYTES)
    except OSError as error:
        raise RayLost(
            f"{where} cannot be reached: {error}; start it there with `drmad ray-driver`"
        ) from error
    keep_alive(writer.get_extra_info("socket"))
    driver = RayDriver(reader, writer)
    writer.write(encode(["hello", token]))
    try:
        await driver.start(
            f"{where} has ended the connection, and its log says why: RAY_AUTH_TOKEN must be the "
            "same on both machines"
        )
        yield driver
    finally:
        await driver.close()


def session_command(descriptor: int, address: str, cpus: float | None = None) -> list[str]:
    """The command of a process that drives Ray for whoever has the other end of the socket."""
    command = [sys.executable, "-P", "-m", "drmad_service.ray_driver.session"]
    command += ["--socket", str(descriptor), "--address", address]
    return command if cpus is None else [*command, "--cpus", str(cpus)]


def _started(
    address: str,
    cpus: float | None,
    paths: Sequence[str],
    environment: Mapping[str, str],
    user: WorkerUser | None,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [*session_command(theirs.fileno(), address, cpus), *paths],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C reaches only the scheduler, which releases its jobs
            user=None if user is None else user.user_id,
            group=None if user is None else user.group_id,
            extra_groups=None if user is None else [],
        )
    return process, ours


async def _ended(process: subprocess.Popen[bytes]) -> None:
    try:
        await asyncio.to_thread(process.wait, _END_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
