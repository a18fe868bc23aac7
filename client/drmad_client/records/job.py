"""A job: its spec, its state, its progress and its outcome."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.search import Start
from drmad_client.records.status import JobStatus, Transition
from drmad_client.spec.job import JobSpec


class Progress(Record):
    """How far a job is. Step and phase are those of the running meta-iteration."""

    iteration: int = Field(default=0, description="Committed meta-iterations.")
    iterations: int = Field(description="Requested meta-iterations.")
    phase: str = Field(default="", description="Phase of replica 0: prepare, forward, backward.")
    step: int = Field(default=0, description="Step within the phase.")
    steps: int = Field(default=0, description="Steps of the phase.")
    remaining_s: float | None = Field(
        default=None,
        description="Estimated seconds to the end: from the preflight, then from the pace.",
    )
    trials: int = Field(default=0, description="Trials of the search that have ended.")
    spent_s: float = Field(
        default=0.0, description="Seconds on the cluster up to the last commit; see timeout_s."
    )


class Waiting(Record):
    """The resources that a queued job needs, against those that are free."""

    cpus: float = Field(description="CPU cores that the job needs at once.")
    gpus: float = Field(description="GPUs that the job needs at once.")
    free_cpus: float = Field(description="Capacity that no job reserves now.")
    free_gpus: float = Field(description="Capacity that no job reserves now.")
    cluster_cpus: float = Field(description="Capacity of the whole cluster.")
    cluster_gpus: float = Field(description="Capacity of the whole cluster.")


class Best(Record):
    """The meta-iteration with the lowest validation loss."""

    iteration: int
    validation_loss: float
    metrics: dict[str, float] = Field(
        default={}, description="Metrics by name; reported, never used to choose."
    )


class Proof(Record):
    """One proof of the preflight: a comparison of the engine with an independent computation."""

    name: Literal["repeatable", "training", "second_derivatives", "hypergradient", "unchanged"]
    result: Literal["passed", "failed", "skipped"]
    detail: str = Field(description="What was compared and the figure, or why it was skipped.")
    where: str | None = Field(
        default=None,
        description="The line of your code (my_problem.py:31), the field, or the name of the "
        "parameter, buffer or hyperparameter.",
    )
    remedy: str | None = Field(default=None, description="What to do about a failure.")
    seconds: float = Field(description="Seconds that the proof took.")


class PreflightReport(Record):
    """What the preflight measured and proved on a worker."""

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
    proofs: list[Proof] = Field(
        default=[],
        description="The proofs in the order in which they ran; empty in reports of earlier "
        "releases.",
    )


class JobError(Record):
    """Why a job failed: the root cause, not a wrapper."""

    code: str = Field(description="Code for programs: training_diverged, problem_invalid, ...")
    message: str = Field(description="What was expected, what came, what to do.")
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
    start: Start | None = Field(default=None, description="Where the search lets the job start.")
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
    version: int = Field(description="Version, which rises with every change; also the ETag.")
