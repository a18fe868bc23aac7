"""What Redis refuses is told apart from its absence, on real servers that refuse."""

from __future__ import annotations

import asyncio
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from drmad_client.records.job import Progress
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service.operations.embedded import server_binary
from drmad_service.store import Capacity, Store
from drmad_service.store.access.connection import connect
from drmad_service.store.access.refusals import explained, refusal_of
from drmad_service.store.layout.state_machine import Action
from tests.service.store.test_store import CAPACITY, started, step

pytestmark = pytest.mark.anyio


async def code_of(request: Any) -> str | None:
    """The code of the refusal that a request meets; None for an outage."""
    with pytest.raises((RedisError, UnicodeError)) as met:
        await request
    refusal = refusal_of(met.value)
    return refusal.code if refusal else None


@asynccontextmanager
async def read_only(redis: Redis) -> AsyncIterator[None]:
    """Redis as the replica of a primary that is gone."""
    await redis.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        await redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]


@asynccontextmanager
async def forbidden(redis: Redis) -> AsyncIterator[None]:
    """Redis whose user may run no script."""
    client: Any = redis
    await client.execute_command("ACL", "SETUSER", "default", "-evalsha")
    try:
        yield
    finally:
        await client.execute_command("ACL", "SETUSER", "default", "+evalsha")


@asynccontextmanager
async def full(redis: Redis) -> AsyncIterator[None]:
    await redis.config_set("maxmemory", "1")
    try:
        yield
    finally:
        await redis.config_set("maxmemory", "0")


async def test_every_cause_of_a_refusal_has_its_code(
    redis: Redis, store: Store, spec: JobSpec, redis_url: str
) -> None:
    lease = await started(store, spec)
    async with full(redis):
        assert await code_of(store.warn(lease, "a", "b")) == "store_full"
        assert await code_of(redis.set("drmad:any", "1")) == "store_full"
        assert await code_of(store.must_accept_writes()) == "store_full"
    async with read_only(redis):
        assert await code_of(store.warn(lease, "a", "b")) == "store_read_only"
        assert await code_of(store.must_accept_writes()) == "store_read_only"
        assert (await store.get(lease.job_id)).status is JobStatus.RUNNING
    assert (
        await code_of(store.add_trial(lease, {"number": "\ud800"}, Progress(iterations=1)))
        == "store_refused"
    )
    assert await code_of(redis.set("drmad:any", "\ud800")) == "store_refused"
    assert await code_of(redis.eval("return redis.call('nonsense')", 0)) == "store_refused"
    async with connect(f"{redis_url}.gone") as gone:
        assert await code_of(Store(gone).ping()) is None
    await store.must_accept_writes()
    assert await redis.exists("drmad:probe") == 0


async def test_missing_rights_are_named_and_wrong_passwords_too(
    redis: Redis, store: Store, spec: JobSpec, redis_url: str
) -> None:
    lease = await started(store, spec)
    path = redis_url.rpartition("@")[2]
    await redis.acl_setuser(
        "few", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"],
        categories=["+@all"], commands=["-xadd"],
    )  # fmt: skip
    try:
        async with connect(f"unix://few:pw@{path}") as limited:
            assert await code_of(Store(limited).warn(lease, "a", "b")) == "store_forbidden"
            assert (await Store(limited).get(lease.job_id)).status is JobStatus.RUNNING
        async with connect(f"unix://few:wrong@{path}") as stranger:
            assert await code_of(Store(stranger).ping()) == "store_forbidden"
    finally:
        await redis.acl_deluser("few")


@pytest.fixture
def bounded_redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis whose files may be bounded, as on a disk that fills up."""
    socket = tmp_path / "s"
    options = [
        "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path), "--appendonly", "yes",
        "--appendfsync", "everysec", "--save", "", "--logfile", str(tmp_path / "log"),
    ]  # fmt: skip
    # Python ignores SIGXFSZ, and so does the server: a write beyond the bound fails, as on a disk.
    server = subprocess.Popen([server_binary(), *options], restore_signals=False)
    yield f"unix://{socket}", server
    server.terminate()
    server.wait()


async def test_full_disk_of_redis_is_told(
    bounded_redis: tuple[str, subprocess.Popen[bytes]], spec: JobSpec
) -> None:
    url, server = bounded_redis
    async with connect(url) as redis, asyncio.timeout(20):
        while True:
            try:
                await redis.ping()
                break
            except RedisError:
                await asyncio.sleep(0.01)
        store = Store(redis)
        lease = await started(store, spec)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        error: Exception | None = None
        while error is None:
            try:
                await store.warn(lease, "a", "b" * 5000)
            except RedisError as refused:
                error = refused
        refusal = refusal_of(error)
        assert refusal is not None
        assert (refusal.code, refusal.status, refusal.passes) == ("store_disk", 507, True)
        assert "free space on the disk of Redis" in explained(error)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (-1, -1))
        while await _refuses(store):  # the server tries again every second
            await asyncio.sleep(0.05)
        assert await store.renew([lease], 10.0) == set()


async def _refuses(store: Store) -> bool:
    try:
        await store.must_accept_writes()
    except RedisError:
        return True
    return False


async def test_at_a_full_redis_leases_are_renewed_and_jobs_are_cancelled_and_released(
    redis: Redis, store: Store, spec: JobSpec
) -> None:
    capacity = Capacity(cpus=8.0, gpus=0.0)
    lease = await started(store, spec)
    queued, _ = await store.create(spec)
    async with full(redis):
        before = await redis.zscore("drmad:leases", lease.job_id)
        assert await store.renew([lease], 100.0) == set()
        after = await redis.zscore("drmad:leases", lease.job_id)
        assert (after or 0.0) > (before or 0.0) + 50_000
        assert await code_of(store.commit(lease, step(0))) == "store_full"
        assert await store.claim("another", 10.0, capacity) is None  # and it is no error
        assert (await store.get(queued.id)).message == "first in the queue"
        await store.say(lease, "waits: for memory")
        assert (await store.get(lease.job_id)).message == "waits: for memory"
        assert (await store.cancel(lease.job_id)).status is JobStatus.CANCELLING
        assert await store.act(lease, Action.YIELD, "cancelled") is JobStatus.CANCELLED
        assert (await store.cancel(queued.id)).status is JobStatus.CANCELLED
        await store.delete(queued.id)


async def test_job_of_a_lost_scheduler_is_taken_over_at_a_full_redis(
    redis: Redis, store: Store, spec: JobSpec
) -> None:
    lease = await started(store, spec)
    await store.cancel(lease.job_id)
    async with full(redis):
        await store.renew([lease], -1.0)
        taken = await store.claim("another", 10.0, CAPACITY)
        assert taken is not None
        assert await store.act(taken, Action.YIELD, "cancelled") is JobStatus.CANCELLED


async def test_api_says_which_refusal_and_is_not_ready(
    redis: Redis, store: Store, spec: JobSpec, api: httpx.AsyncClient
) -> None:
    job, _ = await store.create(spec)
    body = spec.model_dump(mode="json")
    async with read_only(redis):
        ready = await api.get("/readyz")
        assert (ready.status_code, ready.json()["code"]) == (503, "store_read_only")
        refused = await api.post(f"/v1/jobs/{job.id}/cancel")
        assert (refused.status_code, refused.json()["code"]) == (503, "store_read_only")
        assert "point DRMAD_REDIS_URL to the primary" in refused.json()["detail"]
        assert (await api.post("/v1/jobs", json=body)).json()["code"] == "store_read_only"
        assert (await api.get(f"/v1/jobs/{job.id}")).status_code == 200
    async with full(redis):
        ready = await api.get("/readyz")
        assert (ready.status_code, ready.json()["code"]) == (503, "store_full")
        assert "memory limit" in ready.json()["detail"]
        assert (await api.post("/v1/jobs", json=body)).status_code == 507
        assert (await api.post(f"/v1/jobs/{job.id}/cancel")).json()["status"] == "cancelled"
    assert (await api.get("/readyz")).json() == {"status": "ready"}


async def test_uploads_to_a_full_disk_are_507_and_leave_nothing(
    api: httpx.AsyncClient,
) -> None:
    transport: Any = api._transport
    folder: Path = transport.app.state.data.path("a").parent
    content = b"x" * 40_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        answers = [
            await api.put(f"/v1/{kind}/{'ab' * 32}", content=content) for kind in ("data", "code")
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
        assert "free space" in answer.json()["detail"]
    assert not [path for path in folder.glob("*") if path.is_file()]
