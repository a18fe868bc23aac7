"""The attribution of a job: its report, and the influence of every training example."""

from __future__ import annotations

import asyncio
import json

from drmad_client.records.job import Progress
from drmad_client.records.side_runs.attribution import AttributionReport
from drmad_client.records.status import JobStatus
from drmad_service.errors import ResultNotFound
from drmad_service.store.base import Base
from drmad_service.store.layout import keys
from drmad_service.store.layout.types import Lease


class Attributions(Base):
    """Reads and writes attributions, which are kept once for each job."""

    async def keep_attribution(
        self, lease: Lease, report: AttributionReport, scores: bytes, progress: Progress
    ) -> JobStatus:
        """Keep the report and the file of the scores. Repeating it changes nothing.

        Raises:
            LeaseLost: another scheduler drives the job.
        """
        chunks = await asyncio.gather(
            self._blobs.put(lease.job_id, lease.fence, report.model_dump_json().encode()),
            self._blobs.put(lease.job_id, lease.fence, scores),
        )
        fields = {
            "attribution": json.dumps(dict(zip(("report", "scores"), chunks, strict=True))),
            "progress": progress.model_dump_json(),
        }
        return await self._update(lease, fields)

    async def has_attribution(self, job_id: str) -> bool:
        return bool(await self._redis.hexists(keys.job(job_id), "attribution"))

    async def attribution(self, job_id: str) -> AttributionReport:
        """
        Raises:
            JobNotFound, ResultNotFound: the job is of another kind, or has not succeeded.
        """
        return AttributionReport.model_validate_json(await self._attributed(job_id, "report"))

    async def attribution_scores(self, job_id: str) -> bytes:
        """The file of the scores, safetensors; see drmad_client.files.influence_scores.

        Raises:
            JobNotFound, ResultNotFound: the job is of another kind, or has not succeeded.
        """
        return await self._attributed(job_id, "scores")

    async def _attributed(self, job_id: str, part: str) -> bytes:
        job = await self.get(job_id)
        raw = await self._redis.hget(keys.job(job_id), "attribution")
        if raw is None:
            raise ResultNotFound(
                f"job {job_id} has no attribution: it is of kind {job.spec.kind} and {job.status}; "
                "a job of kind attribution has one when it has succeeded"
            )
        return await self._blobs.get(job_id, json.loads(raw)[part])
