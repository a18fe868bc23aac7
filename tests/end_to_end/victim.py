"""A service whose processes are killed, and the jobs that it is held to."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from drmad_client.errors import ConnectionFailed, ServerError
from drmad_client.records.status import JobStatus
from drmad_service.operations.embedded import EmbeddedRedis
from tests.end_to_end.running import Service, alive, descendants
from tests.end_to_end.test_lifecycle import committed, numbers, spec, until, vector

RECOVERY_S = 600.0
"""Much longer than it takes: a crowded machine is no fault."""
SETTINGS = {
    "DRMAD_LEASE_S": "2",
    "DRMAD_RETRY_S": "0.1",
    "DRMAD_RAY_TIMEOUT_S": "3",
    "DRMAD_START_TIMEOUT_S": str(RECOVERY_S),
}

FAULTS: dict[str, tuple[str, ...]] = {
    "replica": ("ray::Replica",),
    "raylet": ("raylet/raylet",),
    "head": ("gcs_server",),
    "scheduler": ("drmad_client schedule",),
    "API": ("drmad_client serve",),
    "Redis": ("redis.sock",),
    "Redis and scheduler": ("redis.sock", "drmad_client schedule"),
    "all but drmad up": (
        "redis.sock",
        "drmad_client schedule",
        "drmad_client serve",
        "raylet/raylet",
    ),
    "drmad up": (),
}
"""By name: what the command lines of the killed processes contain; none is `drmad up` itself."""


@dataclass(frozen=True)
class Outcome:
    """What a round saw."""

    fault: str
    replicas: int
    succeeded: bool
    contiguous: bool
    identical: bool
    standstill_s: float
    """The longest that nothing was committed, from the kill on."""
    extra_starts: int
    """Times that the replicas were started again; each repeats one meta-iteration at most."""
    detail: str

    @property
    def is_good(self) -> bool:
        return self.succeeded and self.contiguous and self.identical


class Victim:
    """A service to kill the processes of."""

    def __init__(self, home: Path, iterations: int) -> None:
        """`iterations` is the length of each job."""
        self.iterations = iterations
        self.service = Service(home, "--cpus", "1")
        self.service.environment |= SETTINGS
        self.seen: dict[int, str] = {}
        self._undisturbed: dict[tuple[int, bool], tuple[list[Any], Any]] = {}

    def undisturbed(self, replicas: int, online: bool = False) -> tuple[list[Any], Any]:
        """History and final vector of a job that nothing disturbs."""
        kind = replicas, online
        if kind not in self._undisturbed:
            with self.service.client() as client:
                job = client.jobs.wait(self.submit(*kind), timeout_s=RECOVERY_S)
                self._undisturbed[kind] = numbers(client, job), vector(client, job)
        return self._undisturbed[kind]

    def submit(self, replicas: int, online: bool = False) -> str:
        """An online job has a checkpoint every seven windows of 40 steps."""
        meta: dict[str, Any] = {"iterations": self.iterations}
        training = {"optimizer": "damped_sgd", "steps": 40, "batch_size": 50}
        if online:
            meta |= {"mode": "online", "window": 40, "checkpoint_every": 7, "learning_rate": 0.1}
            training |= {"optimizer": "adam", "learning_rate": 0.003, "steps": 40 * self.iterations}
        job = spec(
            training=training,
            hypergradient={"method": "replay"},  # exact: nothing to hold it against first
            meta=meta,
            replicas={"count": replicas},
        )
        with self.service.client() as client:
            return client.jobs.create(job).id

    def disturb(self, job_id: str, fault: str, chance: random.Random, within: int) -> float:
        """Kill at a random moment of the job's next `within` meta-iterations, or of its start.

        Returns when, in seconds of the epoch, once the job has committed something again.
        """
        with self.service.client() as client:
            job = client.jobs.retrieve(job_id)
            last = job.progress.iteration + chance.randrange(-2, within)
            if last < 0:
                time.sleep(chance.random() * 2.0)  # while it starts
            else:
                until(client, job, committed(last))
                time.sleep(chance.random() * 0.2)  # somewhere within a meta-iteration
            job = client.jobs.retrieve(job_id)
            assert not job.status.is_terminal, f"{job!r} was over before anything was killed"
        killed_at = time.time()
        self.kill(fault, chance)
        # One commit may have been on its way.
        self.next_commit(job_id, job.progress.iteration + 1)
        return killed_at

    def judge(
        self, job_id: str, fault: str, killed_at: float, replicas: int = 1, online: bool = False
    ) -> Outcome:
        """Hold the job to its promises once it has ended."""
        expected, expected_vector = self.undisturbed(replicas, online)
        with self.service.client() as client:
            ended = client.jobs.wait(job_id, timeout_s=RECOVERY_S)
            history = numbers(client, ended)
            identical = np.array_equal(vector(client, ended), expected_vector)
            events = list(client.jobs.events(job_id))
            times = [record.at.timestamp() for record in client.jobs.history(job_id)]
        starts = [e.data.get("status") for e in events].count("starting")
        losses = [e.data.get("code") for e in events].count("replica_lost")
        return Outcome(
            fault,
            replicas,
            ended.status is JobStatus.SUCCEEDED,
            [iteration for iteration, *_ in history] == list(range(self.iterations)),
            history == expected and identical,
            max(b - a for a, b in pairwise([killed_at, *(t for t in times if t > killed_at)])),
            starts - 1 + losses,
            ", ".join(t.reason for t in ended.transitions),
        )

    def kill(self, fault: str, chance: random.Random) -> None:
        assert self.service.process is not None
        self.remember()
        if fault == "drmad up":
            self.service.process.kill()
            self.service.process.wait()
            self.service.start()
            return
        for pattern in FAULTS[fault]:
            found = [pid for pid, command in self.processes().items() if pattern in command]
            if fault == "replica":
                found = found and [chance.choice(sorted(found))]
            for pid in found:
                os.kill(pid, signal.SIGKILL)

    def next_commit(self, job_id: str, before: int) -> None:
        """Wait until the job has committed more than `before`, and the API returns the commit."""
        deadline = time.monotonic() + RECOVERY_S
        seen = None
        with self.service.client() as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(ConnectionFailed, ServerError):
                    seen = client.jobs.retrieve(job_id)
                    if seen.progress.iteration > before or seen.status.is_terminal:
                        return
                time.sleep(0.02)
        raise AssertionError(f"{seen!r} did not go on: {seen and seen.transitions}")

    def processes(self) -> dict[int, str]:
        """Of the service, with a Redis that outlived its parent."""
        assert self.service.process is not None
        found = descendants(self.service.process.pid)
        socket = EmbeddedRedis(self.service.home).url.rpartition("@")[2]
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if socket in command:
                found[int(entry.name)] = command
        return found

    def remember(self) -> None:
        self.seen |= self.processes()

    def stop(self) -> list[str]:
        """Interrupt the service; returns the commands of its processes that are still alive."""
        self.remember()
        self.service.interrupt()
        deadline = time.monotonic() + 60.0  # Ray's agents notice a killed raylet within ten seconds
        left = list(self.seen)
        while left and time.monotonic() < deadline:
            left = [pid for pid in left if alive(pid) and self.seen[pid] == command_of(pid)]
            time.sleep(0.05)
        return [self.seen[pid] for pid in left]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@contextmanager
def running(home: Path, iterations: int) -> Iterator[Victim]:
    """A service to disturb. Afterwards none of all processes ever seen is left."""
    victim = Victim(home, iterations)
    try:
        victim.service.start()
        yield victim
    finally:
        left = victim.stop()
    assert left == []
