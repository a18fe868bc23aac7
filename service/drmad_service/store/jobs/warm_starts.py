"""First values of a job from another: they are copied at its creation, which outlives the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.warm_start import StartSpec, common, schedules
from drmad_service.store.jobs.job_results import JobResults
from drmad_service.store.layout import keys
from drmad_workers.artifacts.job_artifacts import Kept


@dataclass(frozen=True)
class WarmStart:
    """What another job has tuned.

    Attributes:
        tensors: the state with the values, as safetensors.
        infos: the HyperparameterInfo of those that the new job takes, by name.
        schedules: the names that have an entry for each step in both jobs.
    """

    tensors: Kept
    infos: dict[str, dict[str, Any]]
    schedules: list[str]


class WarmStarts(JobResults):
    """Keeps and reads the values from which a job starts."""

    async def warm_start(self, job_id: str) -> WarmStart | None:
        """The values from which a job starts; None if it starts from its own."""
        raw = await self._redis.hget(keys.job(job_id), "warm")
        if raw is None:
            return None
        described = json.loads(raw)
        tensors = await self._blobs.kept(job_id, described["chunks"])
        return WarmStart(tensors, described["infos"], described["schedules"])

    async def _copy_start(self, job_id: str, spec: JobSpec, start: StartSpec) -> dict[str, str]:
        """Copy the values to a job that is then created. Returns the fields that describe them.

        Raises:
            JobNotFound, ResultNotFound: there are no such values.
        """
        source = await self.get(start.job)
        number = (await self.iteration(start.job, start.iteration)).iteration
        kept = await self._kept(start.job, number)
        await self._blobs.copy(start.job, job_id, kept["state"])
        names = common(spec, source.begun)
        described = {
            "job": start.job,
            "iteration": number,
            "chunks": kept["state"],
            "infos": {
                info.name: info.model_dump(mode="json")
                for info in source.hyperparameters
                if info.name in names
            },
            "schedules": schedules(spec, source.begun),
        }
        return {"warm": json.dumps(described)}
