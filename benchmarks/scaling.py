"""How a job scales with its replicas, and how far one scheduler reaches.

    python benchmarks/scaling.py --quick --json scaling.json

- replicas: a job with 1..K replicas on the cores there are, through the whole service, with tasks
  longer than a second. Each replica trains as much as the one of K = 1 did, so the ideal is the
  same seconds a round: efficiency is seconds at K = 1 over seconds at K. `own` is the slowest
  replica's own work over the seconds of a round: what the service adds, whatever else the machine
  does meanwhile.
- limits: the real scheduler and the real store, in which only the workers are simulated: they
  answer after recorded task times (CPU seconds, as on a core of one's own), with a recorded result.
  Workers and jobs rise to 1,000; where the meta-iterations no longer follow, the scheduler has
  reached its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))
import torch

from drmad_client.http import local_key
from drmad_client.http.client import Client
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.scheduling import scheduler
from drmad_service.scheduling.printed_lines import Remains, Worker
from drmad_service.scheduling.scheduler import Scheduler
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, Store
from drmad_service.store.access.connection import connect
from drmad_service.store.jobs.placement import Placed
from drmad_workers import spec_adapter
from drmad_workers.meta.state import initial_state
from drmad_workers.preflight import short_run
from drmad_workers.ray_actor import outer_step
from drmad_workers.ray_actor.messages import (
    PackedState,
    Prepared,
    ProgressReport,
    ReplicaResult,
    StepResult,
)
from drmad_workers.ray_actor.packed_state import pack
from service import free_port, serving

WAIT_S = 3600.0


def spec(inner_steps: int, iterations: int, replicas: int = 1, cpus: float = 1.0) -> dict[str, Any]:
    """1,000 sample weights."""
    return {
        "problem": {"data": {"name": "digits", "label_noise": 0.5}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"optimizer": "damped_sgd", "steps": inner_steps, "batch_size": 50},
        "hypergradient": {"method": "replay"},
        "meta": {"iterations": iterations, "rollback_tolerance": None},
        "replicas": {"count": replicas},
        "resources": {"cpus": cpus},
    }


# Replicas on real cores


def replicas(inner_steps: int, iterations: int, most: int) -> list[dict[str, float]]:
    """Seconds of a round and of the replicas' own work, by number of replicas."""
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "drmad_client", "up", "--port", str(port), "--no-browser"]
        command += ["--cpus", str(most)]
        with (
            serving(command, f"{url}/readyz", DRMAD_HOME=home, OMP_NUM_THREADS="1"),
            Client(url, local_key.read(Path(home))) as client,
        ):
            rows = [_replicas(client, inner_steps, iterations, k) for k in range(1, most + 1)]
    for row in rows:
        row["efficiency"] = rows[0]["round_s"] / row["round_s"]
    return rows


def _replicas(client: Client, inner_steps: int, iterations: int, count: int) -> dict[str, float]:
    job = client.jobs.create(spec(inner_steps, iterations + 1, count))
    client.jobs.wait(job.id, timeout_s=WAIT_S)
    records = [*client.jobs.history(job.id)][1:]  # the first warms up
    slowest = [max(sum(r.seconds.values()) for r in record.replicas) for record in records]
    total = [record.seconds["total"] for record in records]
    return {
        "replicas": count,
        "round_s": statistics.median(total),
        "task_s": statistics.median(slowest),
        "own": sum(slowest) / sum(total),
        "rounds_per_s": len(total) / sum(total),
        "hypergradients_per_s": count * len(total) / sum(total),
    }


# One scheduler and simulated workers


@dataclasses.dataclass(frozen=True)
class Recording:
    """What real meta-iterations took, one real result, and what a check found."""

    prepared: Prepared
    report: dict[str, Any]
    seconds: list[float]
    result: StepResult
    state: PackedState


def record(inner_steps: int, times: int) -> Recording:
    """Runs the engine in this process, with one thread."""
    torch.set_num_threads(1)
    stated = JobSpec.model_validate(spec(inner_steps, 1))
    problem = spec_adapter.problem(stated, None, None)
    tuner = spec_adapter.tuner(stated, built=problem)
    report = short_run.report(stated, problem, tuner)
    (bound,) = tuner.hyperparameters.values()
    info = {
        "name": bound.name,
        "kind": "sample_weight",
        "shape": list(bound.shape),
        "transform": bound.transform,
        "lower": None,
        "upper": None,
        "groups": [],
    }
    state = pack(initial_state(tuner.hyperparameters))
    seconds = []
    for number in range(times):
        began = time.process_time()
        evaluation = tuner.evaluate(tuner.initial_values(), number)
        seconds.append(time.process_time() - began)
    result = ReplicaResult(0, evaluation, 1000, 300, "node", "cpu")
    step = outer_step.meta_step(stated, [info], state, 64 << 20, [result])
    assert isinstance(step, StepResult)
    return Recording(Prepared([info], state), report, seconds, step, state)


class Ref:
    """A reference to what a simulated worker answers, after a while."""

    def __init__(self, value: Callable[[], Any], after_s: float = 0.0) -> None:
        self._value, self._after_s = value, after_s

    def future(self) -> Future[Any]:
        future: Future[Any] = Future()

        def answer() -> None:
            if not future.cancelled():
                future.set_result(self._value())

        asyncio.get_running_loop().call_later(self._after_s, answer)
        return future


class SimulatedReplicas:
    """Stands in for the replicas of a job: one worker that computes nothing."""

    def __init__(self, recording: Recording, chance: random.Random) -> None:
        self._recording = recording
        self._chance = chance
        self._ticks = itertools.count()
        self.actors: list[Any] = []
        self.workers: list[Worker] = []

    def reserve(self, places: Sequence[Placed]) -> None:
        return None

    def create(self) -> None:
        names = ("prepare", "preflight", "report", "whole_meta_iteration")
        remote = {name: SimpleNamespace(remote=getattr(self, f"_{name}")) for name in names}
        self.actors = [SimpleNamespace(**remote)]
        self.workers = [Worker(actor, "node", "output", "0") for actor in self.actors]

    def put(self, value: Any) -> Any:
        return value

    def remains(self, read: Mapping[str, Sequence[int]]) -> list[Remains]:
        return []

    def kill(self) -> None:
        self.actors, self.workers = [], []

    def _prepare(self) -> Ref:
        return Ref(lambda: self._recording.prepared)

    def _preflight(self, _: int) -> Ref:
        return Ref(lambda: self._recording.report)

    def _report(self) -> Ref:
        return Ref(lambda: ProgressReport("forward", next(self._ticks), 1000, []))

    def _whole_meta_iteration(
        self, state: PackedState, iteration: int, infos: Any, max_model_bytes: int
    ) -> Ref:
        def value() -> StepResult:
            recorded = self._recording.result
            record = recorded.record | {"iteration": iteration, "is_best": iteration == 0}
            scalars = recorded.state.scalars | {"iteration": iteration + 1}
            after = PackedState(recorded.state.tensors, scalars)
            last = iteration + 1 == self.iterations
            return dataclasses.replace(
                recorded, record=record, state=after, finished="iterations" if last else None
            )

        return Ref(value, self._chance.choice(self._recording.seconds))

    iterations = 0


class SimulatedCluster:
    """Stands in for a Ray cluster: room for so many workers."""

    def __init__(self, recording: Recording, chance: random.Random, workers: int) -> None:
        self._recording = recording
        self._chance = chance
        self._workers = workers

    async def capacity(self) -> Capacity:
        return Capacity(float(self._workers), 0.0)

    def replicas(self, spec: JobSpec, code: bytes | None, job_id: str) -> SimulatedReplicas:
        return SimulatedReplicas(self._recording, self._chance)


async def limit(
    url: str, recording: Recording, workers: int, jobs: int, iterations: int
) -> dict[str, float]:
    """One scheduler with so many simulated workers and jobs, until all of them have ended."""
    chance = random.Random(0)
    SimulatedReplicas.iterations = iterations
    settings = SchedulerSettings(redis_url=url)
    driver: Any = SimpleNamespace(request_nodes=None)  # not asked: the cluster is given
    cluster = SimulatedCluster(recording, chance, workers)

    async def silent(*_: Any) -> None:
        await asyncio.Event().wait()

    with (
        patch.object(scheduler, "keep_reporting_nodes", silent),
        patch.object(scheduler, "keep_requesting_nodes", silent),
    ):
        async with connect(url) as redis:
            await redis.flushall()
            store = Store(redis)
            stated = JobSpec.model_validate(spec(100, iterations))
            for _ in range(jobs):
                await store.create(stated)
            before = await redis_work(redis)
            stopping = asyncio.Event()
            began, cpu = time.perf_counter(), time.process_time()
            running = asyncio.create_task(Scheduler(store, settings, driver, cluster).run(stopping))
            claimed_s = None
            while (ended := await redis.zcard("drmad:ended")) < jobs:
                if claimed_s is None and not await redis.zcard("drmad:queue"):
                    claimed_s = time.perf_counter() - began
                await asyncio.sleep(0.05)
                if running.done():
                    running.result()
            seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
            done = {name: n - before[name] for name, n in (await redis_work(redis)).items()}
            stopping.set()
            await running
            failed = await redis.zcard(f"drmad:jobs:{JobStatus.FAILED}")
    if failed:
        raise SystemExit(f"{failed} of {ended} jobs failed")
    task_s = statistics.mean(recording.seconds)
    ideal = min(workers, jobs) / task_s
    return {
        "workers": workers,
        "jobs": jobs,
        "claims_per_s": jobs / (claimed_s or seconds),
        "meta_iterations_per_s": jobs * iterations / seconds,
        "ideal_per_s": ideal,
        "decisions_per_s": jobs * (iterations + 1) / seconds,
        "redis_per_s": done["commands"] / seconds,
        "redis_per_meta_iteration": done["commands"] / jobs / iterations,
        "redis_cpu_ms_per_meta_iteration": 1e3 * done["cpu_s"] / jobs / iterations,
        "redis_kb_per_meta_iteration": done["bytes"] / 1e3 / jobs / iterations,
        "seconds": seconds,
        "scheduler_cpu": cpu_s / seconds,
        "cpu_ms_per_meta_iteration": 1e3 * cpu_s / jobs / iterations,
    }


async def redis_work(redis: Any) -> dict[str, float]:
    """What Redis has done since its start: commands, bytes in and out, seconds of CPU."""
    stats, cpu = await redis.info("stats"), await redis.info("cpu")
    return {
        "commands": stats["total_commands_processed"],
        "bytes": stats["total_net_input_bytes"] + stats["total_net_output_bytes"],
        "cpu_s": cpu["used_cpu_user"] + cpu["used_cpu_sys"],
    }


def limits(
    recording: Recording, sizes: Sequence[tuple[int, int]], iterations: int
) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as home:
        redis = EmbeddedRedis(Path(home))
        redis.start()
        try:
            return [
                asyncio.run(limit(redis.url, recording, workers, jobs, iterations))
                for workers, jobs in sizes
            ]
        finally:
            redis.stop()


def shown(rows: Sequence[dict[str, float]]) -> str:
    """As a table in Markdown."""
    names = list(rows[0])
    lines = [
        f"| {' | '.join(name.replace('_', ' ') for name in names)} |",
        "|---" * len(names) + "|",
    ]
    lines += [f"| {' | '.join(f'{row[name]:.4g}' for name in names)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--json", type=Path, help="write what was measured")
    parser.add_argument("--only", choices=["replicas", "limits"])
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    found: dict[str, Any] = {"python": platform.python_version(), "cores": cores}
    found["load_before"] = os.getloadavg()[0]
    if options.only != "limits":
        rounds, most = (3, min(cores, 2)) if options.quick else (10, cores)
        found["replicas"] = replicas(1200, rounds, most)
        print(shown(found["replicas"]), "\n")
    if options.only != "replicas":
        recording = record(400, 5 if options.quick else 20)
        sizes = [(1, 1), (10, 10), (100, 100)]
        if not options.quick:
            sizes += [(300, 300), (1000, 1000), (100, 1000)]
        found["task_s"] = recording.seconds
        found["limits"] = limits(recording, sizes, 5 if options.quick else 10)
        print(shown(found["limits"]))
    found["load_after"] = os.getloadavg()[0]
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
