"""Validations of the hypergradients of jobs."""

from __future__ import annotations

from drmad_client.records.side_runs.validation import Validation
from drmad_client.spec.side_runs.validation import ValidationSpec
from drmad_service.store.layout.types import ResumePoint
from drmad_service.store.side_runs.base import HeldRun, SideRuns


class Validations(SideRuns):
    """Validations, at most one of a job that is not finished."""

    async def request_validation(
        self, job_id: str, iteration: int, asked: ValidationSpec
    ) -> Validation:
        """Request a validation at the hyperparameters of a committed meta-iteration.

        Raises:
            ResultNotFound: the state of the meta-iteration is not kept.
            RunRefused: another validation of the job is not finished.
        """
        await self._kept(job_id, iteration)
        record = {"iteration": iteration, "asked": asked.model_dump()}
        run_id = await self._request("validation", job_id, record)
        return await self.validation(job_id, run_id)

    async def validations(self, job_id: str) -> list[Validation]:
        """The validations of a job, the newest first."""
        return await self._all("validation", job_id, Validation)

    async def validation(self, job_id: str, validation_id: str) -> Validation:
        """
        Raises:
            ResultNotFound: the job has no such validation, or no longer.
        """
        return await self._one("validation", job_id, validation_id, Validation)

    async def cancel_validation(self, job_id: str, validation_id: str) -> Validation:
        """
        Raises:
            ResultNotFound: as `validation`.
            RunRefused: it is finished.
        """
        await self._cancel("validation", job_id, validation_id)
        return await self.validation(job_id, validation_id)

    async def validated_state(self, held: HeldRun) -> ResumePoint:
        """The state that is validated: that with which its meta-iteration trained."""
        iteration = (await self.validation(held.job_id, held.id)).iteration
        return await self.state_of(held.job_id, iteration)
