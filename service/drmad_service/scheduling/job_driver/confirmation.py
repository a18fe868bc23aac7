"""The confirmation of a job's result: retraining with fresh draws, before the job succeeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from drmad_client.records.job import Best
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.migration import migrate_scalars
from drmad_client.records.side_runs.confirmation import Confirmation
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.job_driver.outcomes import JobReleased, apply_control
from drmad_service.scheduling.job_driver.results import confirmed_best, provisional_best
from drmad_service.scheduling.job_driver.waiting import JobMonitor
from drmad_service.store import ResumePoint
from drmad_service.store.layout.state_machine import Action
from drmad_workers.artifacts.job_artifacts import Kept
from drmad_workers.meta.confirmation import (
    FEWEST_DRAWS,
    Draw,
    Plan,
    allowed_draws,
    fewest_runs,
    is_fresh,
    next_draw,
    number_of,
    outcome,
    plan_of,
)
from drmad_workers.ray_actor.messages import Failure, PackedState, Retrained

_PAGE = 1000


class ConfirmationFailed(Exception):
    """A draw could not be computed; the message says why."""


class JobConfirmation:
    """Confirms the result of one job; see drmad_workers.meta.confirmation.

    The plan and every draw are kept in Redis, so a job that is paused or loses its scheduler
    continues with the same draws.
    """

    def __init__(self, job: DrivenJob, monitor: JobMonitor) -> None:
        self._job = job
        self._monitor = monitor
        self._states: dict[int, PackedState] = {}

    async def run(self, point: ResumePoint) -> None:
        """Choose and confirm the best meta-iteration of a job whose meta-iterations are done.

        What prevents it becomes the reason of a confirmation without figures: the job has its
        result.

        Raises:
            JobReleased: the job was cancelled, paused or preempted.
            CallFailed: a replica is lost.
        """
        job = self._job
        record = await job.store.get(job.lease.job_id)
        share = job.spec.meta.confirmation
        if share == 0.0 or record.best is None or record.confirmation is not None:
            return
        scalars = migrate_scalars(point.scalars) if "version" in point.scalars else {}
        runs = scalars.get("runs", float(point.iteration)) + job.progress.trials
        allowed = allowed_draws(share, runs)
        empty = Confirmation(iterations=point.iteration, runs=runs, allowed=allowed)
        if allowed < FEWEST_DRAWS:
            least = fewest_runs(share)
            reason = (
                f"meta.confirmation {share:g} allows {allowed} more beside the {runs:.3g} training "
                f"runs of the job, and it takes {FEWEST_DRAWS}; {least} of the job, or a larger "
                "share, suffice"
            )
            await self._keep(empty.model_copy(update={"reason": reason}))
            return
        try:
            await self._draw_all(point, empty, record.best, scalars)
        except ConfirmationFailed as failed:
            await self._give_up(empty, str(failed))
        except JobReleased as released:
            action, _, message, _ = released.transition
            if action is not Action.FAIL:
                raise
            await self._give_up(empty, message)

    async def _draw_all(
        self, point: ResumePoint, empty: Confirmation, best: Best, scalars: Mapping[str, Any]
    ) -> None:
        job = self._job
        kept = await job.store.confirmation_work(job.lease.job_id)
        if kept is not None and kept["plan"]["iterations"] == point.iteration:
            plan = Plan.from_dict(kept["plan"])
            draws = [Draw(**draw) for draw in kept["draws"]]
        else:
            plan, draws = await self._plan(best, empty.allowed, scalars), []
        while (following := next_draw(plan, draws)) is not None:
            iteration, index = following
            # The race may have chosen another one than the smoothed losses, whose model is kept.
            begins = is_fresh(index) and not any(is_fresh(draw.index) for draw in draws)
            replaced = begins and iteration != best.iteration
            draw, model = await self._draw(plan, iteration, index, with_model=replaced)
            draws.append(draw)
            work = {"plan": plan.as_dict(), "draws": [asdict(each) for each in draws]}
            if replaced:
                record = await job.store.iteration(job.lease.job_id, iteration)
                best = provisional_best(record.model_dump(mode="json"))
            await self._commit(work, (best, model) if replaced else None)
        found = asdict(outcome(plan, draws))
        confirmation = Confirmation.model_validate({**empty.model_dump(), **found})
        assert confirmation.best is not None
        await self._keep(confirmation, confirmed_best(confirmation.best, best))

    async def _plan(self, best: Best, allowed: int, scalars: Mapping[str, Any]) -> Plan:
        job = self._job
        records: list[MetaIteration] = []
        after: int | None = None
        while True:
            page = await job.store.history(job.lease.job_id, after=after, limit=_PAGE)
            records += page.data
            if page.next is None:
                break
            after = int(page.next)
        levels = [
            (record.iteration, _level(record))
            for record in records
            if record.has_vectors or record.iteration == best.iteration
        ]
        if levels[-1][0] != records[-1].iteration:
            raise ConfirmationFailed(
                "the hyperparameters of the last meta-iteration are not kept: raise vector_bytes"
            )
        first = records[0].iteration
        fresh = job.spec.training.resample
        return plan_of(
            levels,
            best.iteration,
            first if levels[0][0] == first else None,
            allowed,
            scalars.get("recent_losses", ()) if fresh else (),
            scalars.get("recent_metrics", ()) if fresh else (),
        )

    async def _draw(
        self, plan: Plan, iteration: int, index: int, with_model: bool
    ) -> tuple[Draw, Kept | None]:
        """One draw on every replica: the mean of their figures, and the first one's model."""
        job = self._job
        state = await self._state(iteration)
        most_bytes = job.settings.max_model_bytes if with_model else 0
        draw = number_of(plan, index)
        answers = await self._monitor.results(
            [a.retrain.remote(state, iteration, draw, most_bytes) for a in job.replicas.actors]
        )
        trained: list[Retrained] = []
        for answer in answers:
            if isinstance(answer, Failure):
                raise ConfirmationFailed(f"retraining failed: {answer.message}")
            trained.append(answer)
        figures = [each for part in trained for each in part.figures]
        finite = [each for each in figures if each is not None]
        if len(finite) < len(figures):
            return Draw(iteration, index, None), trained[0].model
        metrics = _means(finite)
        loss = metrics.pop("validation_loss")
        return Draw(iteration, index, loss, metrics), trained[0].model

    async def _commit(self, work: dict[str, Any], chosen: tuple[Best, Kept | None] | None) -> None:
        job = self._job
        status = await job.persist(
            lambda: job.store.keep_confirmation_work(job.lease, work, chosen)
        )
        apply_control(status, between_iterations=True)
        await self._monitor.poll_between_iterations()

    async def _state(self, iteration: int) -> PackedState:
        if iteration not in self._states:
            kept, _ = await self._job.store.kept_point(self._job.lease.job_id, iteration)
            self._states[iteration] = PackedState(kept.tensors, kept.scalars)
        return self._states[iteration]

    async def _give_up(self, empty: Confirmation, reason: str) -> None:
        job = self._job
        message = f"the best meta-iteration is not confirmed: {reason}"
        await job.persist(lambda: job.store.warn(job.lease, "not_confirmed", message))
        await self._keep(empty.model_copy(update={"reason": reason}))

    async def _keep(self, confirmation: Confirmation, best: Best | None = None) -> None:
        job = self._job
        await job.persist(lambda: job.store.keep_confirmation(job.lease, confirmation, best))


def _level(record: MetaIteration) -> float:
    smoothed = record.smoothed.get("validation_loss")
    return record.validation_loss if smoothed is None else smoothed.mean


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the replicas; figures whose mean is not finite are left out."""
    names = [name for name in figures[0] if all(name in each for each in figures)]
    means = {name: math.fsum(each[name] for each in figures) / len(figures) for name in names}
    return {name: value for name, value in means.items() if math.isfinite(value)}
