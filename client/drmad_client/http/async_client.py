"""The asynchronous client of the service."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from drmad_client.http.address import client_options, find_base_url
from drmad_client.http.async_jobs import AsyncJobs
from drmad_client.http.async_uploads import AsyncCodeUploads, AsyncDataUploads
from drmad_client.http.protocol import calls
from drmad_client.http.running.async_flow_runner import AsyncFlowRunner
from drmad_client.records.pages import Page
from drmad_client.records.service.audit import AuditEntry
from drmad_client.records.service.cluster import Cluster
from drmad_client.records.service.usage import TenantUsage


class AsyncClient:
    """An asynchronous client of a drmad service.

    Requests that only read, and `jobs.create`, are retried when the connection fails or the
    service is busy. `drmad_client.errors` lists the exceptions that remain.

    Args:
        base_url: The address of the service; by default DRMAD_URL, else http://127.0.0.1:8080.
        api_key: By default DRMAD_API_KEY, else, for a service on this machine, the key that
            `drmad up` keeps in its home folder (DRMAD_HOME), else no key is sent.
        timeout_s: Bounds the wait for an answer, in seconds.
        transport: Replaces the network, as in httpx.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = find_base_url(base_url)
        self.timeout_s = timeout_s
        options = client_options(self.base_url, api_key)
        self._http = httpx.AsyncClient(**options, transport=transport)
        self._runner = AsyncFlowRunner(self._http, self.base_url, timeout_s)
        self.code = AsyncCodeUploads(self._runner)
        self.data = AsyncDataUploads(self._runner)
        self.jobs = AsyncJobs(self._runner, self.code)

    async def catalog(self) -> dict[str, Any]:
        """The built-in models, data sets, kinds of hyperparameters and methods."""
        return await self._runner.send(calls.dictionary("/v1/catalog"))

    async def cluster(self) -> Cluster:
        """The nodes and their GPUs, the running jobs, and the queued jobs with their reasons."""
        return await self._runner.send(calls.cluster())

    async def audit(
        self,
        job: str | None = None,
        by: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[AuditEntry]:
        """Who did what with the tenant's jobs and keys, the newest first.

        Args:
            job: Only entries of this job.
            by: Only what this key, scheduler or operator did.
            after: The `next` of the previous page.
            limit: Bounds the number of entries on a page.
        """
        return await self._runner.send(calls.audit(job, by, after, limit))

    async def usage(self) -> list[TenantUsage]:
        """What the tenant used, what it holds now, and its limits."""
        return (await self._runner.send(calls.usage())).data

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
