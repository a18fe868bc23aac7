"""Records as a service would send them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from drmad_client.records.events import Event
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import Best, JobError, JobRecord, PreflightReport, Progress, Proof
from drmad_client.records.meta_iteration import MetaIteration, ReplicaFigures
from drmad_client.records.service.cluster import Cluster, Node, Placement, SchedulerView
from drmad_client.records.status import JobStatus, Transition
from drmad_client.spec.job import JobSpec

FAILED_PROOF = Proof(
    name="second_derivatives",
    result="failed",
    detail="the product differs by 0.4",
    where="my_problem.py:31",
    remedy="return the derivative of backward, too",
    seconds=0.25,
)
PREFLIGHT = PreflightReport(
    hyperparameters={"sample_weight": [1000]},
    validation_loss=2.0,
    training_loss=2.1,
    steps=20,
    seconds=0.1,
    method="replay",
    fidelity={},
    job_seconds=3.0,
    memory_bytes=1_000_000,
    proofs=[
        Proof(name="repeatable", result="passed", detail="equal", seconds=0.01),
        FAILED_PROOF,
        Proof(name="hypergradient", result="skipped", detail="too large", seconds=0.0),
    ],
)

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ID = "job_01JD8ZQ0V6Y3N4T5R6W7X8Y9Z0"

SPEC: dict[str, Any] = {
    "name": "clean digits",
    "problem": {"data": {"name": "digits", "label_noise": 0.5}},
    "hyperparameters": [{"kind": "sample_weight"}],
    "meta": {"iterations": 3},
}

CLUSTER = Cluster(
    schedulers=[
        SchedulerView(
            scheduler="s1",
            at=START,
            nodes=[
                Node(id="n1", name="big", address="10.0.0.1", alive=True, cpus=16, gpus=1),
                Node(id="n2", name="lost", address="10.0.0.2", alive=False, cpus=8, gpus=0),
            ],
        )
    ],
    cpus=16,
    gpus=1,
    reserved_cpus=2,
    reserved_gpus=0.5,
    running=[],
    queue=[
        Placement(
            id=ID,
            name="clean digits",
            tenant="local",
            status=JobStatus.QUEUED,
            priority=0,
            cpus=32,
            gpus=0,
            since=START,
            message="needs 32 CPUs, cluster has 16",
        )
    ],
)

TRUSTED = {"method": "shortcut", "horizon": 50, "preset": None}
PUBLISHED = {"method": "shortcut", "horizon": None, "preset": "paper"}
MEASURED = {
    "report": None,
    "choices": [
        {
            "method": TRUSTED,
            "probes": [
                {"method": TRUSTED, "cosine": 0.91, "signs": 0.85, "length": 0.7, "cost": 1.3},
                {"method": PUBLISHED, "cosine": None, "cost": 3.1},
            ],
        }
    ],
}


def job(status: JobStatus = JobStatus.RUNNING, done: int = 0, **changes: Any) -> JobRecord:
    ended = status.is_terminal
    values: dict[str, Any] = {
        "id": ID,
        "name": "clean digits",
        "status": status,
        "reason": "claimed",
        "created_at": START,
        "started_at": START + timedelta(seconds=1),
        "finished_at": START + timedelta(seconds=42) if ended else None,
        "progress": Progress(iteration=done, iterations=3),
        "best": Best(
            iteration=done - 1,
            validation_loss=0.25,
            metrics={"validation_error": 0.05, "test_error": 0.0625},
        )
        if done
        else None,
        "hyperparameters": [
            HyperparameterInfo(
                name="sample_weight", kind="sample_weight", shape=[1000], transform="sigmoid"
            )
        ],
        "tags": {"team": "vision"},
        "spec": JobSpec.model_validate(SPEC),
        "version": done,
    }
    if status is JobStatus.FAILED:
        values["error"] = JobError(code="training_diverged", message="the loss became NaN")
    return JobRecord(**(values | changes))


def record(iteration: int) -> MetaIteration:
    return MetaIteration(
        iteration=iteration,
        at=START,
        validation_loss=1.0 / (iteration + 1),
        training_loss=0.5,
        metrics={"validation_error": 0.125, "test_error": 0.25},
        hypergradient_norm=0.01,
        seconds={"forward": 1.0, "total": 1.5},
        replicas=[
            ReplicaFigures(
                replica=0,
                validation_loss=1.0,
                hypergradient_norm=0.01,
                cosine_to_mean=1.0,
                seconds={},
                peak_memory_bytes=1,
            )
        ],
        method="shortcut",
        is_best=iteration == 1,
    )


def status_event(number: int, status: JobStatus, message: str = "") -> Event:
    change = Transition(status=status, at=START, reason="because", message=message)
    return _event(number, "status", change.model_dump(mode="json"))


def iteration_event(number: int, iteration: int) -> Event:
    return _event(number, "iteration", record(iteration).model_dump(mode="json"))


def warning_event(number: int, message: str) -> Event:
    return _event(number, "warning", {"code": "slow", "message": message})


def progress_event(step: int) -> Event:
    progress = Progress(
        iteration=1, iterations=3, phase="forward", step=step, steps=100, remaining_s=200.0
    )
    return Event(id="", at=START, type="progress", data=progress.model_dump(mode="json"))


def _event(number: int, kind: Any, data: dict[str, Any]) -> Event:
    return Event(id=f"{number}-0", at=START, type=kind, data=data)


def life() -> list[Event]:
    """A whole job: three meta-iterations, then success."""
    return [
        status_event(1, JobStatus.QUEUED, "accepted"),
        status_event(2, JobStatus.RUNNING, "1 replica is ready"),
        iteration_event(3, 0),
        warning_event(4, "the loss\u2028 grows"),  # a line end in Unicode, not in the format
        iteration_event(5, 1),
        iteration_event(6, 2),
        status_event(7, JobStatus.SUCCEEDED, "budget spent"),
    ]
