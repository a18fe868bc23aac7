"""The data that recipe.py of a job reads, which a worker writes when a client asks for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from drmad_client.records.job import JobError
from drmad_service.store.files.stored_file import StoredFile
from drmad_service.store.layout import keys
from drmad_service.store.layout.ids import new_id
from drmad_service.store.side_runs.worker_requests import WorkerRequests
from drmad_workers.artifacts.artifact import Artifact

KIND = "recipes"
KEPT_S = 1500
"""Expiry of the reference, in seconds. The artifact outlives it: it is at most half an hour older
than the reference, and removed after an hour without one, see store.files.job_artifacts."""


class RecipeData(WorkerRequests):
    """Requests for the file, and what the workers answered."""

    async def recipe_data(self, job_id: str) -> StoredFile | None:
        """The file; None if no worker wrote it lately."""
        name = await self._redis.get(keys.recipe_data(job_id))
        if name is None:
            return None
        return await StoredFile.of(self._retrained_blobs, job_id, [name.decode()])

    async def request_recipe_data(self, job_id: str, tenant: str) -> str:
        """Ask the schedulers for the file. Returns the id of the request.

        Raises:
            TooManyWaiting: the tenant has as many requests waiting as it may.
        """
        request_id = new_id("recipe")
        await self.ask(KIND, request_id, tenant, job_id)
        return request_id

    async def answer_recipe_data(
        self, request_id: str, job_id: str, answer: Artifact | JobError
    ) -> None:
        error = answer.model_dump_json() if isinstance(answer, JobError) else ""
        if isinstance(answer, Artifact):
            await self._redis.set(keys.recipe_data(job_id), answer.name, ex=KEPT_S)
        await self.answer(KIND, request_id, error)

    async def recipe_data_answered(
        self,
        request_id: str,
        timeout_s: float,
        is_connected: Callable[[], Awaitable[bool]] | None = None,
    ) -> JobError | None:
        """Wait for the answer; see `error_of`."""
        return await self.error_of(KIND, request_id, timeout_s, is_connected)
