"""Jobs come and go for a long time: memory stays flat, and Redis keeps nothing of what is gone.

`make test` loads the service for some seconds, `make test-full` for an hour (DRMAD_SOAK_S). Where
DRMAD_SOAK_REPORT names a file, the figures are written there while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from drmad_client.errors import Conflict, JobFailed, NotFound
from drmad_client.http.client import Client
from drmad_client.http.job_handle import Job
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.operations.orphans import Orphan, orphans
from drmad_service.store.access.connection import connect
from drmad_service.store.layout import keys
from tests.end_to_end.running import Service, descendants

PARTS = {"API": "drmad_client serve", "scheduler": "drmad_client schedule"}
MIB = 1 << 20
SAMPLE_S = 5.0


def tiny(**changes: Any) -> dict[str, Any]:
    """A job whose replica takes longer to start than to compute."""
    return {
        "name": "soak",
        "problem": {"data": {"name": "digits", "train": 100, "valid": 50, "test": 50}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"steps": 20, "batch_size": 10},
        "hypergradient": {"method": "shortcut", "horizon": 10},
        "meta": {"iterations": 3},
        "resources": {"cpus": 0.5},
    } | changes


# What users do with jobs. Each ends with the job gone.


def read_and_delete(client: Client, job: Job) -> None:
    job = client.jobs.wait(job.id, timeout_s=1800)
    assert list(client.jobs.history(job.id))[-1].iteration == job.progress.iteration - 1
    client.jobs.hyperparameters(job.id, "best")
    client.jobs.delete(job.id)


def cancel(client: Client, job: Job) -> None:
    with contextlib.suppress(Conflict):  # it may be over before
        client.jobs.cancel(job.id)
    wait_and_delete(client, job)


def cancel_while_it_runs(client: Client, job: Job) -> None:
    for event in client.jobs.events(job.id):  # the stream is broken off
        if event.type == "iteration" or event.data.get("status") == "succeeded":
            break
    cancel(client, job)


def extend(client: Client, job: Job) -> None:
    client.jobs.wait(job.id, timeout_s=1800)
    read_and_delete(client, client.jobs.extend(job.id, 2))


def fork(client: Client, job: Job) -> None:
    client.jobs.wait(job.id, timeout_s=1800)
    forked = client.jobs.fork(job.id, 1)
    client.jobs.delete(job.id)
    read_and_delete(client, forked)


def fail(client: Client, job: Job) -> None:
    wait_and_delete(client, client.jobs.create(tiny(timeout_s=0.01)))
    wait_and_delete(client, job)


def wait_and_delete(client: Client, job: Job) -> None:
    with contextlib.suppress(JobFailed):
        client.jobs.wait(job.id, timeout_s=1800)
    client.jobs.delete(job.id)
    with pytest.raises(NotFound):
        client.jobs.retrieve(job.id)


USES: list[Callable[[Client, Job], None]] = [
    read_and_delete,
    cancel,
    cancel_while_it_runs,
    extend,
    fork,
    fail,
]


class Load:
    """Users in threads of their own, and what the processes hold meanwhile."""

    def __init__(self, service: Service, users: int) -> None:
        assert service.process is not None
        self.service, self.users = service, users
        self.uses: Counter[str] = Counter()
        self.memory: dict[str, list[int]] = {name: [] for name in PARTS}
        self.pids = {
            name: pid
            for pid, command in descendants(service.process.pid).items()
            for name, part in PARTS.items()
            if part in command
        }
        self.began = time.monotonic()
        self._over = threading.Event()

    def run(self, duration_s: float, sample_s: float = SAMPLE_S) -> None:
        with ThreadPoolExecutor(self.users) as pool:
            users = [pool.submit(self._use, number, duration_s) for number in range(self.users)]
            while not all(user.done() for user in users):
                self._sample()
                self._over.wait(sample_s)
                if any(user.done() and user.exception() for user in users):
                    self._over.set()
            for user in users:
                user.result()
        self._sample()

    def _use(self, number: int, duration_s: float) -> None:
        chance = random.Random(number)
        turn = number
        with self.service.client() as client:
            while time.monotonic() - self.began < duration_s and not self._over.is_set():
                use = USES[turn % len(USES)]
                use(client, client.jobs.create(tiny(priority=chance.randrange(3))))
                list(client.jobs.list(limit=20))
                self.uses[use.__name__] += 1
                turn += 1

    def _sample(self) -> None:
        for name, pid in self.pids.items():
            # An exception here means that the process was not the same all the time.
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            self.memory[name].append(pages * os.sysconf("SC_PAGE_SIZE"))
        if file := os.environ.get("DRMAD_SOAK_REPORT"):
            Path(file).write_text(json.dumps(self.figures(), indent=1))

    def figures(self) -> dict[str, Any]:
        return {
            "seconds": round(time.monotonic() - self.began),
            "uses": dict(self.uses),
            "MiB": {
                name: {"second quarter": early / MIB, "last quarter": late / MIB}
                for name in PARTS
                for early, late in [self.early_and_late(name)]
            },
        }

    def early_and_late(self, name: str) -> tuple[float, float]:
        """Median memory in the second and in the last quarter, in bytes; the first warms up."""
        samples = self.memory[name]
        quarter = max(1, len(samples) // 4)
        return statistics.median(samples[quarter : 2 * quarter] or samples), statistics.median(
            samples[-quarter:]
        )


async def left_in_redis(home: Path) -> tuple[list[Orphan], set[str]]:
    """What belongs to nothing, and the keys of jobs."""
    async with connect(EmbeddedRedis(home).url) as redis:
        job_keys = {raw.decode() async for raw in redis.scan_iter(keys.job("*"))}
        return await orphans(redis), job_keys


def test_jobs_that_come_and_go_leave_nothing_behind(service: Service) -> None:
    """The service of all tests: what they left is held to the same."""
    load = Load(service, users=2)
    load.run(4.0, sample_s=0.5)
    left, job_keys = asyncio.run(left_in_redis(service.home))
    assert left == []
    with service.client() as client:
        kept = {job.id for job in client.jobs.list()}
    assert {key.split(":")[2] for key in job_keys} == kept
    assert set(load.pids) == set(PARTS)
    assert sum(load.uses.values()) >= 2


@pytest.mark.full
def test_an_hour_of_load_leaves_memory_flat_and_redis_empty(tmp_path: Path) -> None:
    service = Service(tmp_path / "home", "--cpus", "2")
    service.environment |= {"DRMAD_KEEP_ENDED_S": "60"}
    service.start()
    try:
        load = Load(service, users=4)
        load.run(float(os.environ.get("DRMAD_SOAK_S", "3600")))
        assert asyncio.run(left_in_redis(service.home)) == ([], set())
    finally:
        service.interrupt()
    for name in PARTS:
        early, late = load.early_and_late(name)
        assert late < early * 1.05 + 8 * MIB, load.figures()
