"""The client for programs that run on asyncio: `api.py`, awaited."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from drmad_client.http import calls
from drmad_client.http.connections import AsyncConnection, options, where
from drmad_client.http.flows import Flow, FlowOutcome, Flows, Item, Stream
from drmad_client.http.job_handle import AsyncJob, AsyncJobPage, History
from drmad_client.http.uploads import AsyncCodeUploads, AsyncDataUploads
from drmad_client.records.cluster import Cluster
from drmad_client.records.job import Event, JobStatus, LogLine, PreflightReport, Trial
from drmad_client.records.job import JobRecord as JobRecord
from drmad_client.spec.job import JobSpec

if TYPE_CHECKING:
    from drmad_client.http.arrays import Arrays

T = TypeVar("T")


class AsyncClient:
    """A drmad service, for programs that run on asyncio: `Client`, awaited."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = where(base_url)
        self.timeout_s = timeout_s
        self._http = httpx.AsyncClient(**options(self.base_url, api_key), transport=transport)
        self._flows = Flows(self.base_url)
        self.jobs = AsyncJobs(self)
        self.code = AsyncCodeUploads(self)
        self.data = AsyncDataUploads(self)

    async def catalog(self) -> dict[str, Any]:
        """As `Client.catalog`."""
        return await self._run(self._flows.send(calls.dictionary("/v1/catalog")))

    async def cluster(self) -> Cluster:
        """As `Client.cluster`."""
        return await self._run(self._flows.send(calls.cluster()))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        outcome: FlowOutcome = None
        connection = AsyncConnection(self._http, self.timeout_s)
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = await connection.perform(step)

    async def _iterate(self, flow: Stream[T]) -> AsyncIterator[T]:
        outcome: FlowOutcome = None
        connection = AsyncConnection(self._http, self.timeout_s)
        try:
            while True:
                try:
                    step = flow.send(outcome)
                except StopIteration:
                    return
                if isinstance(step, Item):
                    outcome = None
                    yield step.value
                else:
                    outcome = await connection.perform(step)
        finally:
            await connection.close()


class AsyncJobs:
    """The jobs of a service: `Jobs`, awaited; `events` and `logs` are for `async for`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._flows = client._flows

    async def create(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        code: Path | str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """As `Jobs.create`."""
        if code is not None:
            spec = calls.with_code(spec, await self._client.code.upload(code))
        return await self._job(calls.create(spec, idempotency_key or uuid.uuid4().hex))

    async def validate(self, spec: JobSpec | Mapping[str, Any]) -> JobSpec:
        """As `Jobs.validate`."""
        return await self._send(calls.validate(spec))

    async def check(
        self, spec: JobSpec | Mapping[str, Any], *, code: Path | str | None = None
    ) -> PreflightReport:
        """As `Jobs.check`."""
        if code is not None:
            spec = calls.with_code(spec, await self._client.code.upload(code))
        return await self._send(calls.check(spec))

    async def retrieve(self, job_id: str) -> AsyncJob:
        """As `Jobs.retrieve`."""
        return await self._job(calls.retrieve(job_id))

    async def list(
        self,
        status: JobStatus | str | None = None,
        tag: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> AsyncJobPage:
        """As `Jobs.list`; all of them by `async for` over the page."""
        page = await self._send(calls.list_jobs(status, tag, after, limit))
        return AsyncJobPage(
            [AsyncJob(self, record) for record in page.data],
            page.next if page.has_more else None,
            lambda next_: self.list(status, tag, next_, limit),
        )

    async def cancel(self, job_id: str) -> AsyncJob:
        """As `Jobs.cancel`."""
        return await self._job(calls.act(job_id, "cancel"))

    async def pause(self, job_id: str) -> AsyncJob:
        """As `Jobs.pause`."""
        return await self._job(calls.act(job_id, "pause"))

    async def resume(self, job_id: str) -> AsyncJob:
        """As `Jobs.resume`."""
        return await self._job(calls.act(job_id, "resume"))

    async def extend(self, job_id: str, iterations: int) -> AsyncJob:
        """As `Jobs.extend`."""
        return await self._job(calls.act(job_id, "extend", {"iterations": iterations}))

    async def fork(
        self, job_id: str, iteration: int, changes: Mapping[str, Any] | None = None
    ) -> AsyncJob:
        """As `Jobs.fork`."""
        return await self._job(calls.fork(job_id, iteration, changes))

    async def delete(self, job_id: str) -> None:
        """As `Jobs.delete`."""
        await self._send(calls.delete(job_id))

    async def wait(
        self,
        job_id: str,
        timeout_s: float | None = None,
        *,
        on_change: Callable[[JobRecord], None] = lambda _: None,
    ) -> AsyncJob:
        """As `Jobs.wait`."""
        flow = self._flows.wait(job_id, timeout_s, on_change)
        return AsyncJob(self, await self._client._run(flow))

    def events(self, job_id: str, after: str | None = None) -> AsyncIterator[Event]:
        """As `Jobs.events`."""
        return self._client._iterate(self._flows.events(job_id, after))

    def logs(
        self,
        job_id: str,
        replica: int | None = None,
        *,
        after: str | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """As `Jobs.logs`."""
        return self._client._iterate(self._flows.logs(job_id, replica, after, follow))

    async def history(self, job_id: str) -> History:
        """As `Jobs.history`."""
        return History(await self._client._run(self._flows.history(job_id)))

    async def trials(self, job_id: str) -> builtins.list[Trial]:
        """As `Jobs.trials`."""
        return await self._client._run(self._flows.trials(job_id))

    async def hyperparameters(
        self, job_id: str, iteration: int | str = "best", raw: bool = False
    ) -> Arrays:
        """As `Jobs.hyperparameters`."""
        call = calls.arrays(job_id, "hyperparameters", iteration, transformed=not raw)
        return await self._send(call)

    async def hypergradients(self, job_id: str, iteration: int | str) -> Arrays:
        """As `Jobs.hypergradients`."""
        return await self._send(calls.arrays(job_id, "hypergradients", iteration))

    async def model(self, job_id: str, iteration: str = "best") -> Arrays:
        """As `Jobs.model`."""
        return await self._send(calls.arrays(job_id, "model", iteration))

    async def fidelity(self, job_id: str) -> dict[str, Any]:
        """As `Jobs.fidelity`."""
        return await self._send(calls.part(job_id, "fidelity"))

    async def figure(self, job_id: str, name: str) -> dict[str, Any]:
        """As `Jobs.figure`."""
        return await self._send(calls.part(job_id, f"figures/{name}"))

    async def save(
        self, job_id: str, folder: Path, iteration: int | str = "best"
    ) -> builtins.list[Path]:
        """As `Jobs.save`."""
        return await self._client._run(self._flows.save(job_id, folder, iteration))

    async def _send(self, call: calls.Call[T]) -> T:
        return await self._client._run(self._flows.send(call))

    async def _job(self, call: calls.Call[JobRecord]) -> AsyncJob:
        return AsyncJob(self, await self._send(call))
