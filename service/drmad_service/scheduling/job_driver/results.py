"""The commit of a meta-iteration, made from what the replicas returned."""

from __future__ import annotations

from drmad_client.records.job import Best, Progress
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.store import MetaIterationCommit, ResumePoint
from drmad_workers.ray_actor.messages import StepResult


def commit_of(
    job: DrivenJob, iteration: int, result: StepResult, elapsed_s: float
) -> MetaIterationCommit:
    """`elapsed_s` is the wall-clock time of the meta-iteration, waiting included."""
    record = result.record
    iterations = job.spec.meta.iterations
    return MetaIterationCommit(
        iteration=iteration,
        record=record
        | {"seconds": record["seconds"] | {"total": elapsed_s}, "warnings": job.warnings},
        next_state=ResumePoint(iteration + 1, result.state.tensors, result.state.scalars),
        hypergradient=result.hypergradient,
        model=result.model,
        progress=Progress(
            iteration=iteration + 1,
            iterations=iterations,
            remaining_s=(iterations - iteration - 1) * elapsed_s,
            trials=job.progress.trials,
            spent_s=job.spent_s(),
        ),
        best=Best(
            iteration=iteration,
            validation_loss=record["validation_loss"],
            metrics=record["metrics"],
        )
        if record["is_best"]
        else None,
    )
