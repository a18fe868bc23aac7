"""Examines Ray in a process of its own, which Ray may block or end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from drmad_service.operations.doctor.finding import Finding

TIMEOUT_S = 60.0
_DRIVER_S = 5.0
_REPORT_RESOURCES = """
import json, logging, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
nodes = [node for node in ray.nodes() if node["Alive"]]
print(json.dumps({"nodes": len(nodes), **ray.cluster_resources()}))
"""
_CONNECTION_ADVICE = (
    "check that the address is right, that RAY_AUTH_TOKEN is the cluster's token, and that this "
    "machine is one of its nodes"
)


def examine_ray(
    address: str, run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
) -> Iterator[Finding]:
    if address == "local":
        yield Finding("Ray", "ok", "drmad schedule starts Ray on this machine")
        return
    if os.environ.get("RAY_AUTH_MODE") != "token":
        advice = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN on every node and scheduler"
        message = "off: every program that reaches the cluster can run code on it"
        yield Finding("Ray's authentication", "warning", message, advice)
    command = [sys.executable, "-c", _REPORT_RESOURCES, address]
    try:
        done = run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        message = f"{address} did not answer within {TIMEOUT_S:g} s"
        yield Finding("Ray", "error", message, _CONNECTION_ADVICE)
        return
    if done.returncode == 0:
        yield _resources(json.loads(done.stdout.splitlines()[-1]))
        return
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    mismatch = "Version mismatch" in done.stderr
    advice = "install the cluster's versions of Ray and Python here"
    yield Finding("Ray", "error", last, advice if mismatch else _CONNECTION_ADVICE)


def examine_driver(address: str) -> Finding:
    """The process that drives Ray for the scheduler."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_DRIVER_S).close()
    except (OSError, ValueError) as error:
        advice = "start drmad ray-driver there, or correct --ray-driver"
        return Finding("Ray's driver", "error", f"{address}: {error}", advice)
    return Finding("Ray's driver", "ok", f"listens at {address}")


def _resources(found: dict[str, Any]) -> Finding:
    cpus, gpus = found.get("CPU", 0), found.get("GPU", 0)
    message = f"{found['nodes']} nodes, {cpus:g} CPUs, {gpus:g} GPUs"
    if not cpus:
        return Finding("Ray", "warning", message, "no node has CPUs for jobs: start workers")
    return Finding("Ray", "ok", message)
