"""A Ray cluster of several raylets on this machine, each on a loopback address of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.end_to_end.running import alive, descendants, free_port

START_S = 400.0
"""Much longer than it takes: a crowded machine is no fault."""
AGENTS = ("dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent", "metrics-export")
PATIENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
"""A killed node is marked dead after about ten seconds; a slow one is waited for."""


class RayCluster:
    """A head, and nodes that join and are killed while it runs."""

    def __init__(self, folder: Path, head_cpus: int) -> None:
        self._folder = folder
        self._head_cpus = head_cpus
        self.address = f"127.0.0.2:{free_port()}"
        self.environment = PATIENT | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
        }
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def addresses(self) -> list[str]:
        """Of the nodes that run, the head among them."""
        return [*self._nodes]

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """Of `ray start`, whose children are the nodes."""
        return [*self._nodes.values()]

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        head = [
            "--head",
            f"--port={port}",
            f"--num-cpus={self._head_cpus}",
            "--include-dashboard=false",
        ]
        self._start("127.0.0.2", *head, f"--temp-dir={self._folder / 'ray'}")

    def join(self, *addresses: str, cpus: int) -> None:
        """Start nodes with so many CPUs each, and wait until they are there."""
        for address in addresses:
            self._start(address, f"--address={self.address}", f"--num-cpus={cpus}")

    def kill(self, address: str) -> None:
        """The node's processes all at once, as when its machine loses power."""
        process = self._nodes.pop(address)
        found = [*descendants(process.pid), process.pid]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        while any(alive(pid) for pid in found):
            time.sleep(0.05)

    def stop(self) -> None:
        for address in [*self._nodes]:
            self.kill(address)

    def _launch(self, address: str, *arguments: str) -> None:
        # Worker ports at random: the default range is one for all raylets of the machine. Those of
        # the agents are given: a raylet ends when they take more than 15 s to choose them.
        common = ["--block", "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        common += [f"--{agent}-port={free_port()}" for agent in AGENTS]
        store = f"--object-store-memory={80 << 20}"
        command = [str(Path(sys.executable).with_name("ray")), "start", *arguments, *common, store]
        with self._log(address).open("wb") as log:
            self._nodes[address] = subprocess.Popen(
                [*command, f"--node-ip-address={address}"],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
            )

    def _start(self, address: str, *arguments: str) -> None:
        """Again where Ray gives up after 30 s, which nothing can change."""
        deadline = time.monotonic() + START_S
        self._launch(address, *arguments)
        while "Ray runtime started" not in (said := self._log(address).read_text()):
            assert time.monotonic() < deadline, said[-2000:]
            if self._nodes[address].poll() is not None:
                assert "timed out during startup" in said, said[-2000:]
                self._launch(address, *arguments)
            time.sleep(0.1)

    def _log(self, address: str) -> Path:
        return self._folder / f"{address}.log"


@contextmanager
def ray_cluster(head_cpus: int = 0) -> Iterator[RayCluster]:
    """A cluster with its head alone; afterwards nothing of it is left.

    Its folder has a short name: Ray's sockets lie deep below it, and 107 characters are the most.
    """
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        cluster = RayCluster(Path(folder), head_cpus)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
