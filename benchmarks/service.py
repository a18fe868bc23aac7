"""What the service costs: beside the engine alone, with many jobs at once, and over HTTP.

    python benchmarks/service.py --quick --json service.json
    python benchmarks/service.py --peers PATH/bin/optuna-dashboard PATH/bin/mlflow

- overhead: seconds of a meta-iteration that are not the replica's own work (dispatch, aggregate,
  persist, publish), beside the same of `tune()`, which calls the same engine in a loop.
- persist: committing one meta-iteration of 10^3 to 10^6 hyperparameters with Adam's state.
- crowd: 20 jobs running at once, and 200 queued behind them.
- http: requests per second and 99th percentile over 8 connections, beside the requests of the same
  kind to optuna-dashboard and MLflow's tracking server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from drmad_client.http import local_key
from drmad_client.http.client import Client
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec

CONNECTIONS = 8
TIME_S = 600.0


def spec(iterations: int, **changes: Any) -> dict[str, Any]:
    """1,000 sample weights; about a tenth of a second a meta-iteration."""
    return {
        "problem": {"data": {"name": "digits", "label_noise": 0.5}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"optimizer": "damped_sgd", "steps": 100, "batch_size": 50},
        "hypergradient": {"method": "shortcut", "horizon": 20},
        "meta": {"iterations": iterations},
    } | changes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(command: list[str], url: str, **environment: str) -> Iterator[int]:
    """A server as a process of its own, once it answers at `url`; its id."""
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + TIME_S
        while True:
            try:
                if httpx.get(url, timeout=5.0).is_success:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_s(root: int) -> float:
    """CPU seconds that a process and its living descendants have taken. Read from /proc."""
    parents, spent, tick = {}, {}, os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[int(stat.parent.name)] = int(fields[1])
        spent[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / tick
    total, generation = 0.0, {root}
    while generation:
        total += sum(spent.get(pid, 0.0) for pid in generation)
        generation = {child for child, parent in parents.items() if parent in generation}
    return total


def overhead(client: Client, pid: int, iterations: int) -> dict[str, float]:
    """Milliseconds of a meta-iteration beside the engine's own phases, and those of the CPU.

    The CPU's are of all processes of the service below `pid`, phases included: on a crowded machine
    they show what wall-clock time cannot.
    """
    import torch

    from drmad_workers import spec_adapter
    from drmad_workers.meta.state import initial_state
    from drmad_workers.meta.update import meta_update

    first, last = 3, iterations - 2
    job = client.jobs.create(spec(iterations))
    cpu = {}
    for event in client.jobs.events(job.id):
        if event.type == "iteration" and event.data["iteration"] in (first, last):
            cpu[event.data["iteration"]] = cpu_s(pid)
    service_cpu = (cpu[last] - cpu[first]) / (last - first)
    records = list(client.jobs.history(job.id))
    apart = [
        (after.at - before.at).total_seconds() for before, after in itertools.pairwise(records)
    ]
    phases = [sum(each.replicas[0].seconds.values()) for each in records[1:]]
    cycles = [whole - own for whole, own in zip(apart, phases, strict=True)]
    checked = JobSpec.model_validate(spec(iterations))
    torch.set_num_threads(1)
    tuner = spec_adapter.tuner(checked)
    state, config = initial_state(tuner.hyperparameters), spec_adapter.meta(checked)
    alone, whole, cpu_began = [], [], 0.0
    for n in range(iterations):
        if n == first:
            cpu_began = time.process_time()
        began = time.perf_counter()
        evaluation = tuner.evaluate(state.hyperparameters, state.iteration)
        state = meta_update(state, evaluation.validation_loss, evaluation.hypergradient, config)
        whole.append(time.perf_counter() - began)
        alone.append(whole[-1] - sum(evaluation.seconds.values()))
    loop_cpu = (time.process_time() - cpu_began) / (iterations - first)
    service, loop = statistics.median(cycles[first:]), statistics.median(alone[first:])
    return {
        "service_ms": 1e3 * service,
        "loop_ms": 1e3 * loop,
        "added_ms": 1e3 * (service - loop),
        # Commits overlap with the next meta-iteration: the extremes of single cycles say nothing.
        "added_mean_ms": 1e3 * (statistics.mean(cycles[first:]) - statistics.mean(alone[first:])),
        # What a commit takes from the replica that computes beside it is in its phases.
        "apart_ms": 1e3 * statistics.median(apart[first:]),
        "loop_whole_ms": 1e3 * statistics.median(whole[first:]),
        "service_cpu_ms": 1e3 * service_cpu,
        "loop_cpu_ms": 1e3 * loop_cpu,
        "added_cpu_ms": 1e3 * (service_cpu - loop_cpu),
    }


def persist(counts: list[int], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a commit, by the number of hyperparameters; of them those of the CPU."""
    from drmad_service.operations.embedded import EmbeddedRedis

    with tempfile.TemporaryDirectory() as folder:
        redis = EmbeddedRedis(Path(folder))
        redis.start()
        try:
            return {
                f"{count}": asyncio.run(_persist(redis.url, count, repeats)) for count in counts
            }
        finally:
            redis.stop()


async def _persist(url: str, count: int, repeats: int) -> dict[str, float]:
    from drmad_client.records.job import Progress
    from drmad_service.store import Capacity, MetaIterationCommit, ResumePoint, Store
    from drmad_service.store.access.connection import connect
    from drmad_service.store.layout.state_machine import Action

    record = {"validation_loss": 1.0, "training_loss": 1.0, "hypergradient_norm": 1.0}
    async with connect(url) as redis:
        store = Store(redis)
        await store.create(JobSpec.model_validate(spec(1000)))
        lease = await store.claim("benchmark", 1000.0, Capacity(8.0, 0.0))
        assert lease is not None
        await store.begin(lease, [], ResumePoint(0, os.urandom(14 * count), {}))
        await store.act(lease, Action.RUN, "started")

        async def cpu_s() -> float:
            spent = await redis.info("cpu")
            return (
                time.process_time() + float(spent["used_cpu_user"]) + float(spent["used_cpu_sys"])
            )

        times, cpu_times = [], []
        for n in range(repeats):
            # λ, two moments and the last direction in half precision; a gradient; a small model
            after = ResumePoint(n + 1, os.urandom(14 * count), {})
            step = MetaIterationCommit(
                n,
                record | {"iteration": n, "method": "shortcut", "is_best": False},
                after,
                os.urandom(4 * count),
                os.urandom(16_000),
                Progress(iteration=n + 1, iterations=1000),
                None,
            )
            cpu_before, began = await cpu_s(), time.perf_counter()
            await store.commit(lease, step)
            times.append(time.perf_counter() - began)
            cpu_times.append(await cpu_s() - cpu_before)
        await store.act(lease, Action.SUCCEED, "iterations")
        await store.delete(lease.job_id)
    return {
        "ms": 1e3 * statistics.median(times),
        "fastest_ms": 1e3 * min(times),
        "cpu_ms": 1e3 * statistics.median(cpu_times),
    }


def crowd(client: Client, at_once: int, queued: int) -> dict[str, float]:
    """Jobs that run at once, and more behind them in the queue, which are then cancelled."""
    while not client.cluster().cpus:  # no scheduler has reported yet
        time.sleep(0.1)
    cpus = client.cluster().cpus / at_once - 1e-3
    small = spec(20, resources={"cpus": cpus})
    began = time.monotonic()
    ids = [client.jobs.create(small).id for _ in range(at_once + queued)]
    accepted_s = time.monotonic() - began
    while count(client, JobStatus.RUNNING) < at_once:
        time.sleep(0.2)
    full_s = time.monotonic() - began
    waiting = count(client, JobStatus.QUEUED)
    for job_id in ids[at_once:]:
        client.jobs.cancel(job_id)
    for job_id in ids[:at_once]:
        client.jobs.wait(job_id)
    ended = [client.jobs.retrieve(job_id).status for job_id in ids]
    return {
        "running_at_once": at_once,
        "queued_behind": waiting,
        "accepted_per_s": len(ids) / accepted_s,
        "seconds_until_all_ran": full_s,
        "seconds": time.monotonic() - began,
        "succeeded": ended.count(JobStatus.SUCCEEDED),
        "cancelled": ended.count(JobStatus.CANCELLED),
    }


def count(client: Client, status: JobStatus) -> int:
    return sum(1 for _ in client.jobs.list(status=status, limit=100))


async def load(
    port: int, requests: int, make: Callable[[int], tuple[str, str, bytes]], headers: str = ""
) -> dict[str, float]:
    """Requests per second and 99th percentile in milliseconds, over CONNECTIONS connections."""
    numbers, times = iter(range(requests)), []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            method, path, body = make(number)
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            began = time.perf_counter()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            if not 200 <= status < 300:
                raise SystemExit(f"{method} {path} was answered with {status}")
            if found := re.search(rb"content-length: (\d+)", answer, re.IGNORECASE):
                await reader.readexactly(int(found[1]))
            times.append(time.perf_counter() - began)
            if answer.startswith(b"HTTP/1.0") or not found:  # its sender hangs up
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    elapsed_s = time.perf_counter() - began
    return {
        "per_s": requests / elapsed_s,
        "p99_ms": 1e3 * statistics.quantiles(times, n=100)[-1],
    }


def http(port: int, key: str, requests: int) -> dict[str, Any]:
    body = json.dumps(spec(1, resources={"cpus": 1000})).encode()  # never runs
    headers = f"Authorization: Bearer {key}\r\n"

    posted = asyncio.run(load(port, requests, lambda _: ("POST", "/v1/jobs", body), headers))
    with Client(f"http://127.0.0.1:{port}", key) as client:
        job_id = next(iter(client.jobs.list(limit=1))).id
    return {
        "get_one": asyncio.run(
            load(port, requests, lambda _: ("GET", f"/v1/jobs/{job_id}", b""), headers)
        ),
        "get_list": asyncio.run(
            load(port, requests, lambda _: ("GET", "/v1/jobs?limit=20", b""), headers)
        ),
        "post": posted,
    }


def optuna_dashboard(command: str, requests: int) -> dict[str, Any]:
    """optuna-dashboard on SQLite: a study where we have a job."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite:///{folder}/studies.db"
        first = f"import optuna; optuna.create_study(storage={storage!r})"
        subprocess.run([Path(command).parent / "python", "-c", first], check=True)
        arguments = [command, storage, "--host", "127.0.0.1", "--port", str(port)]
        with serving(arguments, f"http://127.0.0.1:{port}/api/studies"):

            def create(number: int) -> tuple[str, str, bytes]:
                body = {"study_name": f"study {number}", "directions": ["minimize"]}
                return "POST", "/api/studies", json.dumps(body).encode()

            # As many studies as a page of ours has jobs: its list has no pages.
            asyncio.run(load(port, 19, create))
            one = asyncio.run(load(port, requests, lambda _: ("GET", "/api/studies/1", b"")))
            several = asyncio.run(load(port, requests, lambda _: ("GET", "/api/studies", b"")))
            posted = asyncio.run(load(port, requests, lambda n: create(n + 20)))
    return {"get_one": one, "get_list": several, "post": posted}


def mlflow(command: str, requests: int) -> dict[str, Any]:
    """MLflow's tracking server on SQLite, as it comes: a run where we have a job."""
    port, runs = free_port(), "/api/2.0/mlflow/runs"
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/runs.db"
        arguments = [command, "server", "--backend-store-uri", store, "--port", str(port)]
        with serving(arguments, f"http://127.0.0.1:{port}/health", HOME=folder):
            new = json.dumps({"experiment_id": "0"}).encode()
            posted = asyncio.run(load(port, requests, lambda _: ("POST", f"{runs}/create", new)))
            asked = {"experiment_ids": ["0"], "max_results": 20}
            page, url = json.dumps(asked).encode(), f"http://127.0.0.1:{port}{runs}/search"
            run_id = httpx.post(url, json=asked).json()["runs"][0]["info"]["run_id"]
            one = asyncio.run(
                load(port, requests, lambda _: ("GET", f"{runs}/get?run_id={run_id}", b""))
            )
            several = asyncio.run(load(port, requests, lambda _: ("POST", f"{runs}/search", page)))
    return {"get_one": one, "get_list": several, "post": posted}


PEERS = {"optuna-dashboard": optuna_dashboard, "mlflow": mlflow}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--peers", nargs="*", default=[], help=f"programs: {', '.join(PEERS)}")
    parser.add_argument("--only", nargs="*", choices=["overhead", "persist", "crowd", "http"])
    options = parser.parse_args()
    quick, only = options.quick, options.only or ["overhead", "persist", "crowd", "http"]
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}"
    }

    def keep(part: str, found: Any) -> None:
        figures[part] = found  # kept at once, because a later part may fail
        print(json.dumps({part: found}, indent=2), flush=True)
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2))

    if "persist" in only:
        keep("persist", persist([1000, 100_000, 1_000_000], 5 if quick else 15))
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "drmad_client", "up", "--port", str(port), "--no-browser"]
        url = f"http://127.0.0.1:{port}"
        with serving(command, f"{url}/readyz", DRMAD_HOME=folder, DRMAD_MAX_MEMORY="0") as pid:
            key = local_key.read(Path(folder)) or ""
            with Client(url, key) as client:
                if "overhead" in only:
                    keep("overhead", overhead(client, pid, 40 if quick else 200))
                if "crowd" in only:
                    keep("crowd", crowd(client, *((4, 40) if quick else (20, 200))))
            if "http" in only:
                keep("http", http(port, key, 500 if quick else 5000))
    if "http" in only:
        for peer in options.peers:
            keep(Path(peer).name, PEERS[Path(peer).name](peer, 200 if quick else 1000))


if __name__ == "__main__":
    main()
