"""A job: its spec, its state, its progress and its outcome."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.search import Start
from drmad_client.records.status import JobStatus, Transition
from drmad_client.spec.job import JobSpec


class Progress(Record):
    """The progress of a job. Phase and step belong to the running meta-iteration."""

    iteration: int = Field(default=0, description="Number of committed meta-iterations.")
    iterations: int = Field(description="Number of requested meta-iterations.")
    phase: str = Field(default="", description="Phase of replica 0: prepare, forward or backward.")
    step: int = Field(default=0, description="Number of completed steps of the phase.")
    steps: int = Field(default=0, description="Number of steps of the phase.")
    remaining_s: float | None = Field(
        default=None,
        description="Estimated time to the end of the job, in seconds: from the preflight, then "
        "from the last meta-iteration.",
    )
    trials: int = Field(default=0, description="Number of ended trials of the search.")
    spent_s: float = Field(
        default=0.0,
        description="Time on the cluster up to the last commit, in seconds; see timeout_s.",
    )


class Waiting(Record):
    """The resources that a queued job needs, against those that are free."""

    cpus: float = Field(description="Number of CPU cores that the job needs at once.")
    gpus: float = Field(description="Number of GPUs that the job needs at once.")
    free_cpus: float = Field(description="Number of CPU cores that no job reserves.")
    free_gpus: float = Field(description="Number of GPUs that no job reserves.")
    cluster_cpus: float = Field(description="Number of CPU cores of the cluster.")
    cluster_gpus: float = Field(description="Number of GPUs of the cluster.")


class Best(Record):
    """The meta-iteration with the lowest validation loss."""

    iteration: int
    validation_loss: float
    metrics: dict[str, float] = Field(
        default={}, description="Metrics by name; they have no influence on the choice of the best."
    )


class PreflightReport(Record):
    """What the preflight measured on a worker; it found no problems."""

    hyperparameters: dict[str, list[int]] = Field(
        description="Shapes of the hyperparameters, by name."
    )
    validation_loss: float = Field(description="Validation loss after the few training steps.")
    training_loss: float
    steps: int = Field(description="Inner steps of the short meta-iteration.")
    seconds: float = Field(description="Seconds that the short meta-iteration took.")
    method: str = Field(description="Method that computed its hypergradient.")
    fidelity: dict[str, float | None] = Field(
        description="Cosine to the exact hypergradient over the few steps, by method; null where "
        "it diverged. Over many steps it may be lower."
    )
    job_seconds: float = Field(
        description="Predicted seconds of the whole job, on a worker like this one."
    )
    memory_bytes: int = Field(description="Predicted peak memory of a replica.")


class JobError(Record):
    """The root cause of a job's failure."""

    code: str = Field(description="Code for programs: training_diverged, problem_invalid, ...")
    message: str = Field(
        description="Explanation for people: the expectation, the finding and the remedy."
    )
    iteration: int | None = Field(default=None, description="Meta-iteration in which it failed.")
    step: int | None = Field(default=None, description="Inner step at which it failed.")
    traceback: str | None = Field(
        default=None, description="Traceback of the worker, for errors of the user's code."
    )


class JobRecord(Record):
    """One tuning request, from submission to its terminal state."""

    id: str
    name: str
    status: JobStatus
    reason: str = Field(description="Reason of the last transition.")
    message: str = Field(
        default="", description="Message of the last transition, or why the job waits."
    )
    tenant: str = Field(default="local", description="Tenant that owns the job.")
    waiting: Waiting | None = Field(
        default=None, description="Requested and available resources, while the job is queued."
    )
    forked_from: str | None = Field(
        default=None, description="Job and meta-iteration from which it continues, as in job_...@7."
    )
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress
    preflight: PreflightReport | None = Field(
        default=None, description="What the preflight on its first worker measured and predicted."
    )
    start: Start | None = Field(
        default=None, description="Values with which the job starts after its search."
    )
    best: Best | None = None
    error: JobError | None = None
    hyperparameters: list[HyperparameterInfo] = Field(
        default=[], description="Tuned tensors; empty until a worker has built the problem."
    )
    transitions: list[Transition] = Field(
        default=[], description="Changes of the job's state, oldest first."
    )
    tags: dict[str, str] = Field(default={}, description="Labels that the user set, by key.")
    spec: JobSpec
    version: int = Field(
        description="Version of the record, which increases with every change; it is also the ETag."
    )
