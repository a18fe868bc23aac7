"""Compares two jobs: their specs and their results."""

from __future__ import annotations

from typing import Any, TypedDict

from drmad_client.records.job import JobRecord


class Difference(TypedDict):
    """One row of a comparison; None where a job lacks the field."""

    what: str
    first: Any
    second: Any


def differences(first: JobRecord, second: JobRecord) -> list[Difference]:
    """The fields of the specs that differ, followed by all results of both jobs."""
    specs = [flat(job.spec.model_dump(mode="json")) for job in (first, second)]
    outcomes = [_results(job) for job in (first, second)]
    found = [line for line in _side_by_side(*specs) if line["first"] != line["second"]]
    return found + _side_by_side(*outcomes)


def _side_by_side(first: dict[str, Any], second: dict[str, Any]) -> list[Difference]:
    return [
        {"what": name, "first": first.get(name), "second": second.get(name)}
        for name in dict.fromkeys([*first, *second])
    ]


def _results(job: JobRecord) -> dict[str, Any]:
    results: dict[str, Any] = {"status": str(job.status), "iterations": job.progress.iteration}
    if job.best:
        results |= {
            "best.iteration": job.best.iteration,
            "best.validation_loss": job.best.validation_loss,
        }
        results |= {f"best.{name}": value for name, value in job.best.metrics.items()}
        for name, interval in job.best.intervals.items():
            results |= {f"best.{name}.low": interval.low, f"best.{name}.high": interval.high}
        results["best.draws"] = job.best.draws
    if job.started_at and job.finished_at:
        results["seconds"] = (job.finished_at - job.started_at).total_seconds()
    if job.error:
        results["error"] = job.error.message
    return results


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries and lists by path, such as hyperparameters[0].init."""
    if isinstance(value, dict) and value:
        parts = [(f"{path}.{name}" if path else name, part) for name, part in value.items()]
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        parts = [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    else:
        return {path: value}
    return {leaf: v for name, part in parts for leaf, v in flat(part, name).items()}
