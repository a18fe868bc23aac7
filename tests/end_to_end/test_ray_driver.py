"""A scheduler on no machine of the Ray cluster: `drmad ray-driver` drives Ray for it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drmad_client.records.status import JobStatus
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from tests.end_to_end.ray_cluster import START_S, RayCluster, ray_cluster
from tests.end_to_end.running import descendants, free_port
from tests.end_to_end.test_cluster import SETTINGS, job_spec, until

pytestmark = pytest.mark.anyio

TRAINING = {"optimizer": "damped_sgd", "steps": 20, "batch_size": 50}


@contextmanager
def started(
    log: Path, environment: dict[str, str], *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "drmad_client", *arguments],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def ray_driver(cluster: RayCluster, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    address = f"127.0.0.1:{free_port()}"
    host, _, port = address.partition(":")
    environment = os.environ | cluster.environment
    arguments = ("ray-driver", "--ray-address", cluster.address, "--listen", address)
    with started(folder / "driver.log", environment, *arguments) as process:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection((host, int(port)), 1.0).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "driver.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield process, address


async def test_jobs_run_on_a_cluster_none_of_whose_processes_knows_redis(tmp_path: Path) -> None:
    redis = EmbeddedRedis(tmp_path)
    redis.start()
    try:
        with (
            ray_cluster(head_cpus=1) as cluster,
            ray_driver(cluster, tmp_path) as (driver, address),
        ):
            known = SETTINGS | {"DRMAD_REDIS_URL": redis.url, "DRMAD_RAY_DRIVER": address}
            stranger = os.environ | known | {"RAY_AUTH_TOKEN": "another token"}
            with started(tmp_path / "stranger.log", stranger, "schedule") as refused:
                assert await asyncio.to_thread(refused.wait, START_S) == 1
            assert "RAY_AUTH_TOKEN must be the same" in (tmp_path / "stranger.log").read_text()
            token = cluster.environment["RAY_AUTH_TOKEN"]
            environment = os.environ | known | {"RAY_AUTH_TOKEN": token}
            log = tmp_path / "schedule.log"
            with started(log, environment, "schedule") as scheduler:
                async with connect(redis.url) as connection:
                    await must_succeed(Store(connection))
                of_ray = {driver.pid: "", **descendants(driver.pid)}
                for node in cluster.processes:
                    of_ray |= {node.pid: "", **descendants(node.pid)}
                assert any("raylet" in command for command in of_ray.values())
                assert any("ray_driver.session" in command for command in of_ray.values())
                for pid, command in of_ray.items():
                    assert redis.url.encode() not in environment_of(pid), command
                assert not [c for c in descendants(scheduler.pid).values() if "ray" in c]
                for pid, command in of_ray.items():
                    if "ray_driver.session" in command:
                        os.kill(pid, 9)
                assert await asyncio.to_thread(scheduler.wait, START_S) == 1, log.read_text()
            assert "connection to Ray is lost" in log.read_text()
    finally:
        redis.stop()


async def must_succeed(store: Store) -> None:
    stated = job_spec(training=TRAINING, meta={"iterations": 2})
    job_id = (await store.create(stated))[0].id

    async def has_ended() -> bool:
        return (await store.get(job_id)).status.is_terminal

    await until(has_ended)
    ended = await store.get(job_id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended
        return b""
