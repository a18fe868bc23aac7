"""Retrainings with the hyperparameters of jobs, and the models that they keep."""

from __future__ import annotations

import json

from drmad_client.records.side_runs.retraining import Retraining
from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_service.errors import ResultNotFound
from drmad_service.store.files.stored_file import StoredFile
from drmad_service.store.layout import keys
from drmad_service.store.side_runs.base import SideRuns


class Retrainings(SideRuns):
    """Retrainings, at most one of a job that is not finished."""

    async def request_retraining(
        self, job_id: str, iteration: int | None, asked: RetrainingSpec, at_end: bool = False
    ) -> Retraining:
        """Request a retraining with the hyperparameters of a committed meta-iteration.

        Args:
            iteration: None for an attribution.
            at_end: whether the job's own spec asks for it.
        Raises:
            ResultNotFound: the state of the meta-iteration is not kept.
            RunRefused: another retraining of the job is not finished.
        """
        if iteration is not None:
            await self._kept(job_id, iteration)
        record = {"iteration": iteration, "asked": asked.model_dump(), "at_end": at_end}
        run_id = await self._request("retraining", job_id, record, 2 * asked.seeds)
        return await self.retraining(job_id, run_id)

    async def retrainings(self, job_id: str) -> list[Retraining]:
        """The retrainings of a job, the newest first."""
        return await self._all("retraining", job_id, Retraining)

    async def retraining(self, job_id: str, retraining_id: str) -> Retraining:
        """
        Raises:
            ResultNotFound: the job has no such retraining, or no longer.
        """
        return await self._one("retraining", job_id, retraining_id, Retraining)

    async def cancel_retraining(self, job_id: str, retraining_id: str) -> Retraining:
        """
        Raises:
            ResultNotFound: as `retraining`.
            RunRefused: it is finished.
        """
        await self._cancel("retraining", job_id, retraining_id)
        return await self.retraining(job_id, retraining_id)

    async def retrained_model(self, job_id: str, retraining_id: str) -> StoredFile:
        """The model of the best seed, as safetensors.

        Raises:
            ResultNotFound: the retraining keeps none.
        """
        found = await self.retraining(job_id, retraining_id)
        key = keys.job(job_id, "retrainings")
        raw = await self._redis.hget(key, f"{retraining_id}:outcome")
        names = json.loads(raw or "{}").get("model")
        if names is None:
            raise ResultNotFound(
                f"{retraining_id} keeps no model: it is {found.status}, or the model is larger "
                "than max_model_bytes of the service"
            )
        return await StoredFile.of(self._retrained_blobs, job_id, names)
