"""The commit of a meta-iteration, and the best one, made from what the replicas returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drmad_client.records.job import Best, Progress
from drmad_client.records.side_runs.confirmation import ConfirmedFigures, Interval
from drmad_service.scheduling.job_driver.driven_job import DrivenJob
from drmad_service.scheduling.job_driver.outcomes import encodable, fail
from drmad_service.store import MetaIterationCommit, ResumePoint
from drmad_workers.ray_actor.messages import Failure, StepResult


def commit_of(
    job: DrivenJob,
    iteration: int,
    result: StepResult,
    elapsed_s: float,
    training: Sequence[ResumePoint] = (),
) -> MetaIterationCommit:
    """
    Args:
        elapsed_s: the wall-clock time of the meta-iteration, waiting included.
        training: the checkpoint of an online job, see MetaIterationCommit.

    Raises:
        JobReleased: the store cannot hold the name of a metric.
    """
    record = result.record
    for name in record["metrics"]:
        if name != encodable(name):
            message = f"the name of a metric must be text that UTF-8 can encode, got {name!r}"
            fail(Failure("user_code", message, iteration))
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
        best=provisional_best(record) if record["is_best"] else None,
        training=training,
    )


def provisional_best(record: Mapping[str, Any]) -> Best:
    """The best meta-iteration by its record: its smoothed figures, which are not confirmed."""
    intervals = {
        name: Interval.model_validate(each) for name, each in record.get("smoothed", {}).items()
    }
    means = {name: interval.mean for name, interval in intervals.items()}
    return Best(
        iteration=record["iteration"],
        validation_loss=means.pop("validation_loss", record["validation_loss"]),
        metrics=record["metrics"] | means,
        intervals=intervals,
    )


def confirmed_best(figures: ConfirmedFigures, provisional: Best) -> Best:
    """The best meta-iteration by fresh draws; what was known before if each of them diverged."""
    if "validation_loss" not in figures.figures:
        return provisional
    means = {name: interval.mean for name, interval in figures.figures.items()}
    return Best(
        iteration=figures.iteration,
        validation_loss=means.pop("validation_loss"),
        metrics=provisional.metrics | means,
        intervals=figures.figures,
        draws=figures.draws,
    )
