"""The time of a window of a job beside that of its gradients and products alone."""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from drmad_client.http import local_key
from drmad_client.http.client import Client
from online_study.overhead import overhead
from service import cpu_s, free_port, serving

MODEL = {"name": "mlp", "hidden": [50]}
WINDOWS = 400
FIRST = 20
"""The windows before it have no part in the figures: there the first traces are made."""


def job_overhead(window: int) -> dict[str, Any]:
    """Medians of milliseconds of a window of a job of 1,000 sample weights on one replica.

    `apart_ms` lies between two commits, of which `replica_ms` are the replica's own training,
    backward pass and measurement. `cpu_ms` is the mean CPU time of all processes of the service,
    and `alone_ms` that of the gradients and products, see overhead().
    """
    spec = {
        "problem": {"data": {"name": "digits", "label_noise": 0.5}, "model": MODEL},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"steps": window * WINDOWS, "batch_size": 50, "learning_rate": 0.1},
        "meta": {"mode": "online", "window": window, "learning_rate": 0.1},
    }
    with service_with_pid() as (client, pid):
        job = client.jobs.create(spec)
        cpu = {}
        for event in client.jobs.events(job.id):
            if event.type == "iteration" and event.data["iteration"] in (FIRST, WINDOWS - 1):
                cpu[event.data["iteration"]] = cpu_s(pid)
        records = list(client.jobs.history(job.id))[FIRST:]
    apart = [(after.at - before.at).total_seconds() for before, after in pairwise(records)]
    replica = [sum(each.replicas[0].seconds.values()) for each in records]
    alone = overhead(window)
    return {
        "apart_ms": 1e3 * statistics.median(apart),
        "replica_ms": 1e3 * statistics.median(replica),
        "cpu_ms": 1e3 * (cpu[WINDOWS - 1] - cpu[FIRST]) / (WINDOWS - 1 - FIRST),
        "alone_ms": alone["alone_ms"],
        "window_ms": alone["window_ms"],
    }


@contextmanager
def service_with_pid() -> Iterator[tuple[Client, int]]:
    """A client of a service of its own, and the id of its process."""
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "drmad_client", "up", "--port", str(port)]
        with (
            serving(command, f"{url}/readyz", DRMAD_HOME=home) as pid,
            Client(url, local_key.read(Path(home))) as client,
        ):
            yield client, pid
