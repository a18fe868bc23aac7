"""What saturates first: Redis, the scheduler's CPU or the artifact store, at any size of cluster.

    python benchmarks/saturation.py [--quick] [--gpus 1000] [--jobs 10000] [--json FILE]

Measures what jobs cost on the real scheduler, store and Redis, with simulated workers (see
scaling.py), and extrapolates by a formula. The cost of a run in a resource (Redis commands, seconds
of CPU, bytes) is taken as

    c = a n + b s + d j + e t

with n meta-iterations, s seconds of running jobs (each job reports and is polled), j jobs (their
starts and ends) and t seconds of the scheduler itself; a, b, d and e are fitted, none below zero,
to runs of several numbers of jobs and durations. With N running jobs (no more than GPUs or jobs),
each of which needs T seconds for a meta-iteration and has M of them, a resource is used at

    u = N (a / T + d / (M T)) + b min(N, P) + e

in each second: of seconds of CPU, 1 is a whole core. P are the jobs that are polled in each
interval: all drivers of a scheduler together poll 400 times a second, which is 80 jobs every 0.2 s;
beyond them each job is polled less often. The artifact store carries N B / T bytes a
second, if a meta-iteration writes B bytes. Redis also keeps some bytes for each job.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from scipy.optimize import nnls

from drmad_client.spec.job import JobSpec
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from scaling import limit, record, shown, spec

RUNS = [(1, 1.0, 5), (5, 0.5, 10), (5, 4.0, 3), (30, 0.5, 10), (30, 2.0, 5), (30, 4.0, 2)]
"""Jobs, seconds of a meta-iteration and meta-iterations of each run."""
TASKS_S = (1.0, 10.0, 60.0, 600.0)
POLLED = 80
LENGTH = 30
"""Meta-iterations of a job."""
MODELS = {"1 M weights": 4e6, "124 M weights": 496e6}
RESOURCES = {
    "Redis commands": ("redis_per_meta_iteration", 1.0),
    "Redis CPU s": ("redis_cpu_ms_per_meta_iteration", 1e-3),
    "Redis bytes": ("redis_kb_per_meta_iteration", 1e3),
    "scheduler CPU s": ("cpu_ms_per_meta_iteration", 1e-3),
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one resource."""

    per_meta_iteration: float
    per_running_s: float
    per_job: float
    per_scheduler_s: float
    error: float
    """Largest deviation of a run from the fit, relative."""

    def used(self, running: int, task_s: float) -> float:
        """What so many running jobs use in a second."""
        commits = running * (self.per_meta_iteration + self.per_job / LENGTH) / task_s
        return commits + min(running, POLLED) * self.per_running_s + self.per_scheduler_s


def costs(url: str, runs: Sequence[tuple[int, float, int]]) -> dict[str, Cost]:
    """Of each resource, fitted to the runs."""
    recorded = record(100, 1)
    rows, measured = [], []
    for jobs, task_s, iterations in runs:
        fixed = dataclasses.replace(recorded, seconds=[task_s])
        row = asyncio.run(limit(url, fixed, jobs, jobs, iterations))
        n = jobs * iterations
        rows.append([n, jobs * row["seconds"], jobs, row["seconds"]])
        measured.append([n * factor * row[column] for column, factor in RESOURCES.values()])
    found = {}
    for place, name in enumerate(RESOURCES):
        c = np.array([each[place] for each in measured])
        scaled = np.array(rows) / c[:, None]  # each run counts alike
        fitted, _ = nnls(scaled, np.ones(len(c)))
        a, b, d, e = map(float, fitted)
        found[name] = Cost(a, b, d, e, float(abs(scaled @ fitted - 1.0).max()))
    return found


async def queue(url: str, jobs: int) -> dict[str, float]:
    """What each queued job keeps in Redis, and what a claim takes behind so many."""
    async with connect(url) as redis:
        await redis.flushall()
        store = Store(redis)
        stated = JobSpec.model_validate(spec(100, 10))
        before = (await redis.info("memory"))["used_memory"]
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(jobs):
            await store.create(stated)
        created, created_cpu = time.perf_counter() - began, time.process_time() - cpu
        memory = (await redis.info("memory"))["used_memory"] - before
        return {
            "queued": jobs,
            "bytes_per_job": memory / jobs,
            "creates_per_s": jobs / created,
            "create_cpu_ms": 1e3 * created_cpu / jobs,
        }


def extrapolated(
    found: dict[str, Cost], gpus: int, jobs: int, bytes_per_job: float
) -> list[dict[str, Any]]:
    """A row for each duration of a meta-iteration: what is used of each resource in a second."""
    running = min(gpus, jobs)
    rows = []
    for task_s in TASKS_S:
        used = {name: cost.used(running, task_s) for name, cost in found.items()}
        rows.append(
            {
                "seconds a meta-iteration": task_s,
                "meta-iterations a second": running / task_s,
                "Redis commands a second": used["Redis commands"],
                "Redis cores": used["Redis CPU s"],
                "Redis MB a second": used["Redis bytes"] / 1e6,
                "scheduler cores": used["scheduler CPU s"],
                **{f"artifact GB/s, {m}": running * b / task_s / 1e9 for m, b in MODELS.items()},
                "first": max(
                    ("Redis", used["Redis CPU s"]),
                    ("scheduler", used["scheduler CPU s"]),
                    key=lambda pair: pair[1],
                )[0],
            }
        )
    rows[0]["Redis GB of jobs"] = jobs * bytes_per_job / 1e9
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    names = [name for name in rows[0] if name != "Redis GB of jobs"]
    lines = [f"| {' | '.join(names)} |", "|" + " ---: |" * len(names)]
    for row in rows:
        cells = [row[n] if isinstance(row[n], str) else f"{row[n]:.3g}" for n in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer jobs, less exact")
    parser.add_argument("--gpus", type=int, default=1000, help="GPUs of the cluster")
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs, running and queued")
    parser.add_argument("--json", type=Path, help="write what was measured")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as home:
        redis = EmbeddedRedis(Path(home))
        redis.start()
        try:
            found = costs(redis.url, RUNS[:4] if options.quick else RUNS)
            queued = asyncio.run(queue(redis.url, 500 if options.quick else options.jobs))
        finally:
            redis.stop()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}\n")
    print("| resource | a, meta-iteration | b, running second | d, job | e, second | error |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, cost in found.items():
        print(f"| {name} | {' | '.join(f'{each:.3g}' for each in dataclasses.astuple(cost))} |")
    print()
    print(shown([queued]), "\n")
    rows = extrapolated(found, options.gpus, options.jobs, queued["bytes_per_job"])
    print(f"{options.gpus:,} GPUs, {options.jobs:,} jobs, {rows[0]['Redis GB of jobs']:.2g} GB\n")
    print(table(rows))
    if options.json:
        measured = {name: dataclasses.asdict(cost) for name, cost in found.items()}
        written = {"load": load, "costs": measured, "queue": queued, "extrapolated": rows}
        options.json.write_text(json.dumps(written, indent=2))


if __name__ == "__main__":
    main()
