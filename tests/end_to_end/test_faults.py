"""kill -9 of every process, at random moments of a running job: nothing is lost or repeated.

A round submits a job, lets it commit some meta-iterations, waits a random moment, kills, and holds
the job to its promises. `make test` runs a round of each fault; `make test-full` runs them over and
over, and writes the table of docs/faults.md where DRMAD_FAULTS_TABLE names a file.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from drmad_client.api import Client
from drmad_client.errors import ConnectionFailed, ServerError
from drmad_client.jobs import Job
from drmad_client.records import JobStatus
from drmad_service.embedded import EmbeddedRedis
from tests.end_to_end.running import Service, alive, descendants
from tests.end_to_end.test_lifecycle import committed, numbers, spec, until, vector

ITERATIONS = 40
ROUNDS = 56
RECOVERY_S = 240.0
"""Much longer than it takes: a crowded machine is no fault."""
FAST = {"DRMAD_LEASE_S": "2", "DRMAD_RETRY_S": "0.1", "DRMAD_RAY_TIMEOUT_S": "3"}

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

    succeeded: bool
    contiguous: bool
    identical: bool
    recovery_s: float
    detail: str

    @property
    def is_good(self) -> bool:
        return self.succeeded and self.contiguous and self.identical


class Victim:
    """A service whose processes are killed, and the job that it is held to."""

    def __init__(self, home: Path) -> None:
        self.service = Service(home, "--cpus", "1")
        self.service.environment |= FAST
        self.seen: dict[int, str] = {}

    def learn(self) -> None:
        """What the job gives when nothing disturbs it."""
        self.service.start()
        with self.service.client() as client:
            job = client.jobs.wait(self.submit(client).id, timeout_s=120)
            self.undisturbed = numbers(client, job)
            self.vector = vector(client, job)

    def submit(self, client: Client) -> Job:
        return client.jobs.create(spec(meta={"iterations": ITERATIONS}))

    def round(self, fault: str, chance: random.Random) -> Outcome:
        with self.service.client() as client:
            job = self.submit(client)
            until(client, job, committed(chance.randrange(ITERATIONS // 2)))
            time.sleep(chance.random() * 0.2)  # somewhere within a meta-iteration
            at = client.jobs.retrieve(job.id).progress.iteration
            began = time.monotonic()
            self.kill(fault)
            # One commit may have been on its way.
            recovery_s = self.next_commit(job.id, at + 1) - began
        with self.service.client() as client:
            ended = client.jobs.wait(job.id, timeout_s=RECOVERY_S)
            history = numbers(client, job)
            identical = np.array_equal(vector(client, job), self.vector)
        return Outcome(
            ended.status is JobStatus.SUCCEEDED,
            [iteration for iteration, *_ in history] == list(range(ITERATIONS)),
            history == self.undisturbed and identical,
            recovery_s,
            f"{fault} after {at}: {[t.reason for t in ended.transitions]}",
        )

    def kill(self, fault: str) -> None:
        assert self.service.process is not None
        self.remember()
        if fault == "drmad up":
            self.service.process.kill()
            self.service.process.wait()
            self.service.start()
            return
        for pattern in FAULTS[fault]:
            found = [pid for pid, command in self.processes().items() if pattern in command]
            for pid in found:
                os.kill(pid, signal.SIGKILL)

    def next_commit(self, job_id: str, before: int) -> float:
        """When the job has committed more than `before`, and the API tells of it."""
        deadline = time.monotonic() + RECOVERY_S
        seen = None
        with self.service.client() as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(ConnectionFailed, ServerError):
                    seen = client.jobs.retrieve(job_id)
                    if seen.progress.iteration > before or seen.status.is_terminal:
                        return time.monotonic()
                time.sleep(0.02)
        raise AssertionError(f"{seen!r} did not go on: {seen and seen.transitions}")

    def processes(self) -> dict[int, str]:
        """Of the service, with a Redis that outlived its parent."""
        assert self.service.process is not None
        found = descendants(self.service.process.pid)
        socket = EmbeddedRedis(self.service.home).url.removeprefix("unix://")
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
        """Interrupt, and tell which of all processes ever seen are still there."""
        self.remember()
        self.service.interrupt()
        deadline = time.monotonic() + 60.0  # Ray's agents look for a killed raylet for ten seconds
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
def running(home: Path) -> Iterator[Victim]:
    """A service with its undisturbed job. Afterwards none of all processes ever seen is left."""
    victim = Victim(home)
    try:
        victim.learn()
        yield victim
    finally:
        left = victim.stop()
    assert left == []


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with running(tmp_path_factory.mktemp("faults")) as victim:
        yield victim


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if " and " not in fault])
def test_killed_with_minus_nine_the_job_goes_on_as_if_nothing_had_been(
    victim: Victim, fault: str
) -> None:
    outcome = victim.round(fault, random.Random(f"seed {fault}"))
    assert outcome.is_good, outcome


@pytest.mark.full
def test_many_rounds_of_random_faults(tmp_path: Path) -> None:
    chance = random.Random(4)
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    with running(tmp_path / "home") as victim:
        for number in range(ROUNDS):
            fault = list(FAULTS)[number % len(FAULTS)]
            outcomes[fault].append(victim.round(fault, chance))
            if file := os.environ.get("DRMAD_FAULTS_TABLE"):
                Path(file).write_text(table(outcomes))
    assert [o for found in outcomes.values() for o in found if not o.is_good] == []


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """The outcomes as a table in Markdown."""
    lines = [
        "| killed with -9 | rounds | jobs succeeded | history contiguous | bit-identical | "
        "seconds to the next commit: median, longest |",
        "|---|---|---|---|---|---|",
    ]
    everything = [outcome for found in outcomes.values() for outcome in found]
    for fault, found in [*outcomes.items(), ("**all**", everything)]:
        counts: list[Callable[[Outcome], bool]] = [
            lambda o: o.succeeded,
            lambda o: o.contiguous,
            lambda o: o.identical,
        ]
        cells = [str(sum(map(count, found))) for count in counts]
        seconds = [outcome.recovery_s for outcome in found]
        times = f"{np.median(seconds):.1f}, {max(seconds):.1f}"
        lines.append(f"| {fault} | {len(found)} | {' | '.join(cells)} | {times} |")
    return "\n".join(lines) + "\n"
