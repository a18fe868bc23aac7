"""What the service answers: jobs, their states, their meta-iterations and their events."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from drmad_client.spec.job import JobSpec

T = TypeVar("T")


class Record(BaseModel):
    """Base of every answer: immutable; a field that a newer service adds is ignored."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"  # accepted, waits for a scheduler and for capacity
    STARTING = "starting"  # claimed by a scheduler; replicas are placed and the problem is built
    RUNNING = "running"  # meta-iterations are being computed
    PAUSING = "pausing"  # asked to pause; the running meta-iteration is finished first
    PAUSED = "paused"  # holds nothing on the cluster until it is resumed
    CANCELLING = "cancelling"  # asked to end now; its replicas are being stopped
    SUCCEEDED = "succeeded"  # budget spent, or patience over
    FAILED = "failed"  # ended by an error; see `error`
    CANCELLED = "cancelled"  # ended by its user

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class Transition(Record):
    """One change of a job's state."""

    status: JobStatus = Field(description="The state entered.")
    at: datetime = Field(description="When, UTC.")
    reason: str = Field(description="A word for programs: submitted, claimed, diverged, ...")
    message: str = Field(default="", description="A sentence for people.")


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


class Trial(Record):
    """A training run of the search, at other values of a few scalars; no meta-iteration."""

    number: int = Field(description="0, 1, ...; they end in any order.")
    at: datetime = Field(description="When it was recorded, UTC.")
    state: Literal["done", "diverged", "refused"] = Field(
        description="refused: its values together make no job."
    )
    values: dict[str, Any] = Field(description="By path in the job.")
    validation_loss: float | None = Field(default=None, description="null unless it is done.")
    metrics: dict[str, float] = Field(default={}, description="Reported, never used to choose.")
    seconds: float = 0.0
    message: str = Field(default="", description="Why it gave no loss.")


class Start(Record):
    """Where the search lets the job start."""

    trial: int = Field(description="The number of the best.")
    values: dict[str, Any] = Field(description="By path in the job.")
    validation_loss: float


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


class HyperparameterGroup(Record):
    """A labelled stretch of a flattened tensor, such as a layer's part."""

    label: str
    start: int
    stop: int


class HyperparameterInfo(Record):
    """One tuned tensor: its shape and how raw values become the user's units."""

    name: str
    kind: str
    shape: list[int]
    transform: Literal["identity", "exp", "sigmoid"] = Field(
        description="Value in the user's units = transform(raw)."
    )
    lower: float | None = None
    upper: float | None = None
    groups: list[HyperparameterGroup] = Field(
        default=[], description="Its parts, where it has several."
    )


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
    transitions: list[Transition] = []
    tags: dict[str, str] = {}
    spec: JobSpec
    version: int = Field(description="Rises with every change; the ETag.")


class GroupSummary(Record):
    """One part of a hyperparameter tensor, such as a layer."""

    label: str
    median: float = Field(description="In the user's units.")
    hypergradient_norm: float = Field(description="Euclidean, in raw units.")


class HyperparameterSummary(Record):
    """Five numbers of a vector in the user's units, and of its hypergradient."""

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float
    hypergradient_norm: float = Field(description="Euclidean, in raw units.")
    groups: list[GroupSummary] = Field(default=[], description="Of its parts, where it has some.")


class ReplicaFigures(Record):
    """What one replica reported of its meta-iteration."""

    replica: int
    validation_loss: float
    hypergradient_norm: float
    cosine_to_mean: float = Field(
        description="Of its hypergradient to the aggregated one, over what the replica holds."
    )
    staleness: int = Field(
        default=0, description="Updates applied while it was computed; 0 in sync rounds."
    )
    seconds: dict[str, float] = Field(description="By phase: forward, backward, evaluate.")
    peak_memory_bytes: int
    train_examples: int | None = Field(default=None, description="That the replica holds.")
    valid_examples: int | None = Field(default=None, description="Likewise.")
    node: str = ""
    device: str = ""


class MetaIteration(Record):
    """One hypergradient and one update. Its figures belong to the hyperparameters it began with."""

    iteration: int = Field(description="0, 1, ... without gap or repeat.")
    at: datetime = Field(description="When it was committed, UTC.")
    validation_loss: float
    training_loss: float = Field(description="Mean over the last inner steps.")
    metrics: dict[str, float] = Field(default={}, description="validation_error, test_error, ...")
    hypergradient_norm: float
    cosine_to_previous: float | None = Field(
        default=None, description="Of the hypergradient to that of the meta-iteration before."
    )
    hyperparameters: dict[str, HyperparameterSummary] = {}
    seconds: dict[str, float] = Field(default={}, description="By phase; total is wall time.")
    replicas: list[ReplicaFigures] = Field(
        default=[],
        description="Those that answered, by number; async: its arrivals, in the order applied.",
    )
    method: str = Field(description="The method that computed the hypergradient.")
    cost: float | None = Field(
        default=None,
        description="Of the mean replica's work in plain training runs, by counting gradients and "
        "Hessian-vector products; where auto looked, with all that it tried.",
    )
    choice: dict[str, Any] | None = Field(
        default=None,
        description="Where the method is auto and looked: what it measured, decided, and why.",
    )
    is_best: bool = Field(description="Lowest validation loss so far.")
    has_vectors: bool = Field(
        default=True, description="Whether its hyperparameters and hypergradient are still kept."
    )


class Arrival(Record):
    """One replica's hypergradient, applied by itself (replicas.mode: async).

    Those of a meta-iteration that was not committed are computed again.
    """

    iteration: int = Field(description="The meta-iteration that it is a part of.")
    replica: int
    staleness: int = Field(description="Updates applied while it was computed.")
    validation_loss: float
    hypergradient_norm: float = Field(description="Euclidean, in raw units.")
    seconds: dict[str, float] = Field(description="By phase: forward, backward, evaluate.")


class LogLine(Record):
    """A line that a replica printed."""

    id: str = Field(description="Give it back as `after` for the lines that follow.")
    at: datetime
    replica: int
    text: str


class Event(Record):
    """Something that happened to a job, in the order in which it happened."""

    id: str = Field(description="Give it back as Last-Event-ID to go on after it.")
    at: datetime
    type: Literal[
        "status",
        "trial",
        "start",
        "iteration",
        "arrival",
        "rollback",
        "progress",
        "warning",
        "webhook",
        "reset",
    ]
    data: dict[str, Any] = Field(
        description="status: a Transition. trial: a Trial. start: a Start, what the "
        "search found. iteration: a MetaIteration. arrival: an Arrival. progress: a Progress. "
        "rollback: {iteration, rollback, message}; rollback counts them in a row. "
        "warning: {code, message}. webhook: {host, outcome, attempts, message}. "
        "reset: the Job, when earlier events are no longer kept."
    )


class Page(Record, Generic[T]):
    """A part of a list."""

    data: list[T]
    has_more: bool
    next: str | None = Field(default=None, description="Give it back as `after` for more.")


class FieldError(Record):
    """One bad field of a request."""

    path: str = Field(description="As in training.steps or hyperparameters[0].kind.")
    message: str = Field(description="What was expected, what came, what to do.")


class ProblemDetails(Record):
    """An error, as RFC 9457 states it (application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = ""
    code: str
    errors: list[FieldError] = []
