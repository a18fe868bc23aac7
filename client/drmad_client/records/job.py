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
    """How far a job is. Step and phase are those of the running meta-iteration."""

    iteration: int = Field(default=0, description="Committed meta-iterations.")
    iterations: int = Field(description="Meta-iterations asked for.")
    phase: str = Field(default="", description="What replica 0 does: prepare, forward, backward.")
    step: int = Field(default=0, description="Step within the phase.")
    steps: int = Field(default=0, description="Steps of the phase.")
    remaining_s: float | None = Field(
        default=None,
        description="Estimated seconds to the end: by the check of its start, then by its pace.",
    )
    trials: int = Field(default=0, description="Trials of the search that have ended.")
    spent_s: float = Field(
        default=0.0, description="Seconds on the cluster up to the last commit; see timeout_s."
    )


class Waiting(Record):
    """What a queued job waits for."""

    cpus: float = Field(description="CPU cores that the job needs at once.")
    gpus: float = Field(description="GPUs that the job needs at once.")
    free_cpus: float = Field(description="Not reserved for any job now.")
    free_gpus: float = Field(description="Not reserved for any job now.")
    cluster_cpus: float = Field(description="Of the whole cluster.")
    cluster_gpus: float = Field(description="Of the whole cluster.")


class Best(Record):
    """The meta-iteration with the lowest validation loss."""

    iteration: int
    validation_loss: float
    metrics: dict[str, float] = Field(default={}, description="Reported, never used to choose.")


class PreflightReport(Record):
    """What a look at a job on a worker found, where it found no fault."""

    hyperparameters: dict[str, list[int]] = Field(description="Shapes by name.")
    validation_loss: float = Field(description="After the few steps that were trained.")
    training_loss: float
    steps: int = Field(description="Inner steps of the tiny meta-iteration.")
    seconds: float = Field(description="Of the tiny meta-iteration.")
    method: str = Field(description="That computed its hypergradient.")
    fidelity: dict[str, float | None] = Field(
        description="Cosine to the exact hypergradient over the few steps, by method; null where "
        "it diverged. Over many steps it may be lower."
    )
    job_seconds: float = Field(description="Predicted of the whole job, on a worker like that one.")
    memory_bytes: int = Field(description="Predicted of a replica, at most.")


class JobError(Record):
    """Why a job failed: the root cause, not a wrapper."""

    code: str = Field(description="A word for programs: training_diverged, problem_invalid, ...")
    message: str = Field(description="What was expected, what came, what to do.")
    iteration: int | None = Field(default=None, description="Meta-iteration in which it failed.")
    step: int | None = Field(default=None, description="Inner step at which it failed.")
    traceback: str | None = Field(default=None, description="Of the worker, where it helps.")


class JobRecord(Record):
    """One tuning request, from submission to its terminal state."""

    id: str
    name: str
    status: JobStatus
    reason: str = Field(description="Of the last transition.")
    message: str = Field(default="", description="Of the last transition, or why the job waits.")
    tenant: str = Field(default="local", description="Whose job it is.")
    waiting: Waiting | None = Field(
        default=None, description="While it is queued: requested against available."
    )
    forked_from: str | None = Field(
        default=None, description="Job and meta-iteration that it goes on from, as in job_...@7."
    )
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress
    preflight: PreflightReport | None = Field(
        default=None, description="What its first worker found in a few steps, and predicted."
    )
    start: Start | None = Field(default=None, description="What the job's search found.")
    best: Best | None = None
    error: JobError | None = None
    hyperparameters: list[HyperparameterInfo] = Field(
        default=[], description="Known once a worker has built the problem."
    )
    transitions: list[Transition] = Field(
        default=[], description="Its changes of state, oldest first."
    )
    tags: dict[str, str] = Field(default={}, description="Labels of its user, by key.")
    spec: JobSpec
    version: int = Field(description="Rises with every change; the ETag.")
