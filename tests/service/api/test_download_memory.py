"""A hundred downloads at once keep the memory of the API flat, however large the file is."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from drmad_client.spec.job import JobSpec
from drmad_service.store import Store
from drmad_workers.artifacts.store import ArtifactLocation
from tests.service.api.test_server import running
from tests.service.store.test_store import started, step

DOWNLOADS = 100
FILE_BYTES = 16 << 20
MOST_BYTES = 128 << 20
"""A hundred pieces of 64 KiB, their connections and what Python keeps of them are 50 MiB. The files
together are 1,600 MiB, and half of them 800."""
PIECE = 1 << 16


@pytest.fixture
def server(redis_url: str, tmp_path: Path) -> Iterator[tuple[int, str]]:
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    with running(redis_url, "--home", str(home), "--data-dir", str(data)) as (process, url):
        yield process.pid, url


def resident_bytes(pid: int, which: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(which))
    return int(line.split()[1]) << 10


async def kept_model(redis_url: str, folder: Path, spec: JobSpec, content: bytes) -> str:
    """The path of a model that a worker wrote to the artifact store."""
    artifacts = ArtifactLocation(str(folder)).open()
    async with AsyncRedis.from_url(redis_url) as redis:
        store = Store(redis, artifacts=artifacts)
        lease = await started(store, spec)
        with artifacts.scratch() as file:
            file.write_bytes(content)
            artifact = artifacts.keep(file, f"jobs/{lease.job_id}/models")
        await store.commit(lease, replace(step(0), model=artifact))
    return f"/v1/jobs/{lease.job_id}/model"


def test_a_hundred_downloads_at_once_keep_the_memory_of_the_api_flat(
    server: tuple[int, str], redis_url: str, tmp_path: Path, spec: JobSpec
) -> None:
    pid, url = server
    block = bytes(range(256)) * 4096
    content = block * (FILE_BYTES // len(block))
    digest = hashlib.sha256(content).hexdigest()
    path = asyncio.run(kept_model(redis_url, tmp_path / "data", spec, content))
    host = urlsplit(url).netloc

    def begin() -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(host, timeout=300.0)
        connection.request("GET", path)
        return connection, connection.getresponse()

    warm, answer = begin()
    assert hashlib.sha256(answer.read()).hexdigest() == digest
    warm.close()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    before = resident_bytes(pid, "VmRSS")
    with ExitStack() as closing:
        begun = []
        for _ in range(DOWNLOADS):
            connection, answer = begin()
            closing.callback(connection.close)
            assert answer.status == 200
            begun.append((answer, hashlib.sha256(answer.read(PIECE))))
        # All are under way: the sockets hold what is read too slowly, and the API waits for them.
        for answer, found in begun:
            while piece := answer.read(PIECE):
                found.update(piece)
            assert found.hexdigest() == digest
    assert resident_bytes(pid, "VmHWM") - before < MOST_BYTES
    assert resident_bytes(pid, "VmRSS") - before < MOST_BYTES
