"""The scripts for Slurm run as Slurm runs them, with an srun that starts its tasks here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from drmad_client.http import local_key
from drmad_client.http.client import Client
from drmad_client.records.service.cluster import Cluster
from tests.deploy.containers import ROOT
from tests.end_to_end.ray_cluster import PATIENT
from tests.end_to_end.running import START_S, WAIT_S, alive, descendants, free_port

FOLDER = ROOT / "deploy" / "slurm"

SRUN = """#!/bin/bash
echo "$*" >> "$SRUN_LOG"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
[[ "$*" == "show hostnames node[1-2]" ]] && printf 'node1\\nnode2\\n'
"""
HOSTNAME = """#!/bin/bash
[[ "$*" == "--ip-address" ]] && echo "127.0.0.1 ::1" || echo node1
"""
NODES = ("node1", "node2")
JOB: dict[str, Any] = {
    "problem": {"data": {"name": "digits", "train": 200, "valid": 100, "test": 100}},
    "hyperparameters": [{"kind": "l2"}],
    "training": {"steps": 20, "batch_size": 20},
    "meta": {"iterations": 2},
    "replicas": {"count": 2, "placement": "spread"},
}


class Allocation:
    """One batch script in an allocation of two nodes, which are both this machine."""

    def __init__(self, script: str, folder: Path) -> None:
        programs = folder / "bin"
        programs.mkdir(exist_ok=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("hostname", HOSTNAME)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.home, self.port = folder / "home", free_port()
        self.calls = folder / "calls"
        self.output = folder / "output"
        self.environment = {
            **os.environ,
            **PATIENT,
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SRUN_LOG": str(self.calls),
            "DRMAD_HOME": str(self.home),
            "DRMAD_PORT": str(self.port),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_CPUS_PER_TASK": "1",
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", str(FOLDER / script)],
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_for_cpus(self, cpus: float) -> None:
        deadline = time.monotonic() + START_S
        while (found := self._cluster()) is None or found.cpus < cpus:
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, f"{found} {self.output.read_text()[-3000:]}"
            time.sleep(0.5)

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", local_key.read(self.home))

    def _cluster(self) -> Cluster | None:
        try:
            if not httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).is_success:
                return None
        except httpx.HTTPError:
            return None
        with self.client() as client:
            return client.cluster()

    def end(self) -> Mapping[int, str]:
        """Slurm's warning to the batch shell alone; returns the processes that it had."""
        begun = descendants(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=120)
        return begun


def committed(allocation: Allocation, job_id: str, count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    with allocation.client() as client:
        while (job := client.jobs.retrieve(job_id)).progress.iteration < count:
            assert not job.status.is_terminal, job.message
            assert time.monotonic() < deadline, job.message
            time.sleep(0.2)


@pytest.mark.full
def test_service_of_one_node_ends_with_its_allocation_and_goes_on_in_the_next(
    tmp_path: Path,
) -> None:
    first = Allocation("up.sbatch", tmp_path)
    try:
        first.wait_for_cpus(1)
        long = JOB | {"replicas": {"count": 1}, "meta": {"iterations": 5000}}
        with first.client() as client:
            job_id = client.jobs.create(long).id
        committed(first, job_id, 2)
    finally:
        processes = first.end()
    output = first.output.read_text()
    assert f"ssh -L {first.port}:127.0.0.1:{first.port} node1" in output
    assert "Sign in" in output
    assert len(processes) > 3
    assert [command for pid, command in processes.items() if alive(pid)] == []
    second = Allocation("up.sbatch", tmp_path)
    try:
        second.wait_for_cpus(1)
        with second.client() as client:
            before = client.jobs.retrieve(job_id).progress.iteration
        assert before >= 2
        committed(second, job_id, before + 1)
    finally:
        second.end()


@pytest.mark.full
def test_ray_spans_the_nodes_of_an_allocation(tmp_path: Path) -> None:
    allocation = Allocation("cluster.sbatch", tmp_path)
    try:
        allocation.wait_for_cpus(2)
        token = allocation.home / f"ray-token-{os.getpid()}"
        assert token.stat().st_mode & 0o077 == 0
        with allocation.client() as client:
            job = client.jobs.create(JOB)
            committed(allocation, job.id, 2)
            nodes = {f.node for record in client.jobs.history(job.id) for f in record.replicas}
        assert len(nodes) == 2
    finally:
        processes = allocation.end()
    calls = allocation.calls.read_text().splitlines()
    placed = "--overlap --nodes=1 --ntasks=1 --nodelist="
    starts = [call for call in calls if " ray start " in call][:2]  # Ray may give up, and try again
    assert [call.split(" ray start ")[0] for call in starts] == [f"{placed}{n}" for n in NODES]
    assert "--head" in starts[0]
    assert "--address=127.0.0.1:" in starts[1]
    assert [command for pid, command in processes.items() if alive(pid)] == []
    assert not token.exists()
