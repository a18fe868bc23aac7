"""Submits the jobs of an experiment to a service and collects their results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from drmad_client.errors import JobFailed
from drmad_client.http import local_key
from drmad_client.http.client import Client
from drmad_client.http.job_handle import Job
from drmad_client.spec.job import JobSpec
from experiments.cleaning import Cleaned, clean
from experiments.opponents import RAW_ENTRIES, measure, search
from experiments.plain import Plain, train_plainly
from experiments.results import Result, Results, array_file, from_job
from experiments.tasks import Measured, Search, Task, Tuned

START_S = 120.0


def gather(client: Client | None, tasks: Sequence[Task], results: Results) -> None:
    """Runs the tasks without a result: the jobs in the service, the baselines beside it.

    `client` may be None where no task is a job.

    A repeated call continues: the idempotency key of a job is the key of its task with a digest of
    the spec's defaults, so that the service returns the job that it already has.
    """
    missing = [task for task in tasks if not results.has(task)]
    beside_it = [task for task in missing if isinstance(task, Search | Plain | Cleaned)]
    tuned = [task for task in missing if isinstance(task, Tuned)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as beside:
        futures = [beside.submit(without_service, task) for task in beside_it]
        try:
            for future in futures:
                future.add_done_callback(lambda done: _keep(done, results))
            if client is not None:
                jobs = [_submitted(client, task) for task in tuned]
                for task, job in zip(tuned, jobs, strict=True):
                    results.add(_gathered(task, job, results))
            for future in futures:
                future.result()
            for alone in missing:
                if isinstance(alone, Measured):
                    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as fresh:
                        results.add(fresh.submit(measure, alone).result())
        except BaseException:
            beside.shutdown(wait=False, cancel_futures=True)
            raise


def without_service(task: Search | Plain | Cleaned) -> Result:
    if isinstance(task, Cleaned):
        return clean(task)
    return train_plainly(task) if isinstance(task, Plain) else search(task)


def _keep(done: Future[Result], results: Results) -> None:
    if not done.cancelled() and done.exception() is None:
        results.add(done.result())


def _submitted(client: Client, task: Tuned) -> Job:
    spec = task.spec | {"seed": task.seed, "name": f"{task.case} {task.arm}"}
    defaults = json.dumps(JobSpec.model_json_schema(), sort_keys=True)
    key = f"{task.key}-{hashlib.sha256(defaults.encode()).hexdigest()[:16]}"
    return client.jobs.create(spec, code=task.code, idempotency_key=key)


def _gathered(task: Tuned, job: Job, results: Results) -> Result:
    with contextlib.suppress(JobFailed):
        job.wait(progress=False)
    job.reload()
    result = from_job(task, job, job.history())
    if job.best is not None:
        raw = job.hyperparameters(raw=True)
        few = {name: array for name, array in raw.items() if array.size <= RAW_ENTRIES}
        result.raw = {name: array.ravel().tolist() for name, array in few.items()}
        if task.keep:
            results.folder.mkdir(parents=True, exist_ok=True)
            kept: dict[str, Any] = {name: raw[name].astype(np.float16) for name in task.keep}
            np.savez_compressed(results.folder / array_file(*task.name), **kept)
    return result


@contextlib.contextmanager
def service(url: str | None, home: Path) -> Iterator[Client]:
    """A client of the service at `url`, or of one that is started here with its state in `home`."""
    if url is not None:
        with Client(url) as client:
            yield client
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "drmad_client", "up", "--no-browser"]
    process = subprocess.Popen(
        [*command, "--home", str(home), "--port", str(port)], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + START_S
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start; see {home}/logs")
            time.sleep(0.1)
        with Client(f"http://127.0.0.1:{port}", local_key.read(home)) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2.0).is_success
    except httpx.HTTPError:
        return False
