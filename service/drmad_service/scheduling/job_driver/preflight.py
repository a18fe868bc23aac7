"""Preflight of a job that is about to start: a short run, proofs, the fidelity of its method."""

from __future__ import annotations

from typing import Any

from drmad_client.records.job import PreflightReport
from drmad_client.spec import defaults
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.job_driver.outcomes import fail
from drmad_service.scheduling.job_driver.waiting import JobMonitor
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.store import ResumePoint
from drmad_workers.ray_actor.messages import Failure, PackedState

_MISTAKES = ("user_code", "problem_invalid")
"""Failures that do not depend on the hyperparameters' values."""


class JobPreflight:
    """Runs each part of the preflight once a job, whichever scheduler begins it."""

    def __init__(self, job: DrivenJob, monitor: JobMonitor, report: PreflightReport | None) -> None:
        """`report` is what an earlier lease kept; one without figures is made again."""
        self._job = job
        self._monitor = monitor
        self._report = report
        self._has_run = report is not None and report.failure is None

    async def short_run(self) -> None:
        """Run a few steps and the proofs on the first replica.

        A mistake in the job's problem, training that diverges in these steps, or a failed proof
        fails the job, unless the job overrides it. Before a search a divergence is left to the
        trials, and the run is repeated with the values that the search finds.
        """
        if not self._has_run:
            await self._run()
        report, spec = self._report, self._job.spec
        if report is None:
            return
        if report.divergence is not None and spec.search is not None:
            self._has_run = False
            return
        if refusal := report.refusal(spec.preflight):
            diverged = report.divergence
            if diverged is None or report.failed:
                fail(Failure("preflight_failed", refusal))
            fail(Failure(diverged.code, refusal, diverged.iteration, diverged.step))
        self._job.warnings = report.warnings(spec.preflight)

    async def _run(self) -> None:
        job = self._job
        most_bytes = job.settings.max_model_bytes
        answer = future_of(job.replicas.actors[0].preflight.remote(most_bytes))
        await self._monitor.wait([answer])
        found: dict[str, Any] | Failure = answer.result()
        self._has_run = True
        if isinstance(found, Failure):
            if found.code in _MISTAKES:
                fail(found)
            message = f"the preflight could not run, so nothing is proved: {found.message}"
            await job.persist(lambda: job.store.warn(job.lease, "preflight_incomplete", message))
            job.warnings = [f"preflight: {message}"]
            return
        report = PreflightReport.model_validate(found)
        if report.job_seconds is not None:
            left = 1.0 - job.progress.iteration / job.spec.meta.iterations
            remaining = {"remaining_s": left * report.job_seconds}
            job.progress = job.progress.model_copy(update=remaining)
        preflight = job.spec.preflight
        overridden = report.overridden(preflight)
        unproved = [] if report.refusal(preflight) else report.unproved()
        doubts = report.doubts()
        warning = "; ".join(overridden + unproved + doubts)
        code = "preflight_overridden" if overridden or report.divergence else "preflight_incomplete"
        if not (overridden or unproved):
            code = "fidelity_low"
        await job.persist(
            lambda: job.store.keep_preflight(job.lease, report, job.progress, code, warning)
        )
        self._report = report
        if report.model_refusal:
            await self._warn("model_not_kept", report.model_refusal)

    async def compare_method(self, point: ResumePoint) -> None:
        """Compare an approximate method with the exact one; warn when its fidelity is low."""
        job = self._job
        method = job.spec.hypergradient
        is_exact = method.is_exact and getattr(method, "horizon", None) is None
        is_online = job.spec.meta.mode == "online"  # a window is compared by the short run
        if is_exact or is_online or await job.store.fidelity_report(job.lease.job_id):
            return
        state = PackedState(point.tensors, point.scalars)
        (report,) = await self._monitor.results(
            [job.replicas.actors[0].fidelity.remote(state, point.iteration)]
        )
        if isinstance(report, Failure) and report.code == "user_code":
            fail(report)
        if isinstance(report, Failure):
            message = f"the method could not be compared with the exact one: {report.message}"
            await job.persist(lambda: job.store.keep_fidelity(job.lease, {"failure": message}))
            await self._warn("fidelity_unknown", message)
            return
        await job.persist(lambda: job.store.keep_fidelity(job.lease, report))
        agreement = report.get("agreement")
        if agreement is not None and agreement["cosine"] < defaults.Fidelity.agreement:
            await self._warn(
                "draws_disagree",
                "the exact hypergradients of two draws of weights and minibatches have a cosine of "
                f"{agreement['cosine']:.2f}, and no method can be better from one meta-iteration "
                "to the next: average over draws (replicas: {count: 4}), or make training smoother "
                "(a lower learning rate, a longer warm-up); drmad validate says what else helps",
            )
        (prediction,) = report["predictions"]
        if prediction["doubtful"]:
            cosine = prediction["figure"]["cosine"]
            found = "diverges" if cosine is None else f"has a cosine of {cosine:.2f}"
            await self._warn(
                "fidelity_low",
                f"{method.method}'s hypergradient {found} to the exact one on this problem; "
                "hypergradient: {method: auto} selects a method of sufficient fidelity",
            )

    async def _warn(self, code: str, message: str) -> None:
        job = self._job
        await job.persist(lambda: job.store.warn(job.lease, code, message))
