"""Processes with torch imported wait for jobs: each serves one actor, another takes its place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from drmad_client.spec.job import JobSpec
from drmad_service.ray_driver.connection import RayDriver
from drmad_service.ray_driver.launch import Workers, launched
from drmad_service.scheduling.replica_group import ReplicaGroup
from drmad_service.store.jobs.placement import Placed
from drmad_workers.ray_actor.messages import Prepared
from tests.end_to_end.running import alive, descendants

pytestmark = pytest.mark.anyio

WAIT_S = 120.0
JOB = JobSpec.model_validate(
    {
        "problem": {
            "model": {"name": "mlp", "hidden": [8]},
            "data": {"name": "digits", "train": 100, "valid": 50, "test": 0},
        },
        "hyperparameters": [{"kind": "l2"}],
        "training": {"steps": 5, "batch_size": 20},
    }
)


def processes(kind: str) -> set[int]:
    """The processes of this Ray, named by what they do, that have loaded torch's library."""
    return {
        pid
        for pid, command in descendants(os.getpid()).items()
        if command.startswith(f"ray::{kind}") and "libtorch_cpu" in loaded(pid)
    }


def loaded(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""  # it ended meanwhile


async def until(condition: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.1)
    assert condition(), what


async def started(driver: RayDriver, node: str) -> ReplicaGroup:
    group = ReplicaGroup(JOB, driver, [], "", None, warm=1)
    assert group.reserve([Placed(node, 1)]) is None
    group.create()
    assert isinstance(await group.actors[0].prepare.remote().future(), Prepared)
    return group


async def taken(driver: RayDriver, node: str) -> tuple[ReplicaGroup, int]:
    """Replicas in a process that waited for them, and the process.

    A process can be seen before it waits; replicas that come that early start one of their own.
    """
    async with asyncio.timeout(WAIT_S):
        while True:
            waiting = processes("IDLE")
            group = await started(driver, node)
            (process,) = processes("Replica")
            if process in waiting:
                return group, process
            await ended(group, process)


async def ended(group: ReplicaGroup, process: int) -> None:
    group.kill()
    await until(lambda: not alive(process), "the process ends with its actor")


async def test_an_actor_takes_a_process_that_waits_and_no_process_serves_twice() -> None:
    async with launched("local", 2, Workers(warm=1)) as driver:
        (node,) = (node["NodeID"] for node in await driver.nodes())
        driver.warm(node, 1)
        await until(lambda: processes("IDLE"), "a process waits")
        group, first = await taken(driver, node)
        await until(lambda: processes("IDLE"), "another process waits")
        await ended(group, first)
        group, second = await taken(driver, node)
        assert second != first
        await ended(group, second)
