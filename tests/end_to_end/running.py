"""`drmad up` as a process, as a user starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from drmad_client.http import local_key
from drmad_client.http.client import Client

WAIT_S = 600.0
"""Much longer than a job of the tests takes to end: a crowded machine is no fault."""
START_S = 300.0


class Service:
    """A service on loopback with a home of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = os.environ | {"DRMAD_HOME": str(home), "DRMAD_URL": self.url}
        self._arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "drmad_client", "up", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, *self._arguments], env=self.environment, stdout=subprocess.DEVNULL
        )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            assert self.process.poll() is None, "drmad up exited"
            assert time.monotonic() < deadline, f"not ready within {START_S} s; see {self.home}"
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2.0).is_success
        except httpx.HTTPError:
            return False

    def interrupt(self) -> float:
        """Ctrl-C. Returns the seconds that it took to stop."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)
        return time.monotonic() - began

    @property
    def key(self) -> str | None:
        """What `drmad up` made in its home; programs with this DRMAD_HOME find it by themselves."""
        return local_key.read(self.home)

    def client(self) -> Client:
        return Client(self.url, self.key)

    def http(self) -> httpx.Client:
        """Plain HTTP, for tests of the wire itself."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60.0)

    def run(self, *arguments: str, timeout_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
        """`drmad ...` against this service."""
        return subprocess.run(
            [sys.executable, "-m", "drmad_client", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def descendants(pid: int) -> dict[int, str]:
    """Living processes below `pid`, with their commands. Read from /proc."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it ended meanwhile
        if fields[0] != "Z":
            parents[int(entry.name)] = int(fields[1])
    found: dict[int, str] = {}
    generation = {pid}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation}
        found |= {child: commands[child] for child in generation}
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
