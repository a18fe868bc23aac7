"""A job: its spec, its state, its progress and its outcome."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from drmad_client.records.base import Record
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.search import Start
from drmad_client.records.service.usage import Usage
from drmad_client.records.side_runs.confirmation import Confirmation, Interval
from drmad_client.records.status import JobStatus, Transition
from drmad_client.spec import defaults
from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.preflight import PreflightSpec, ProofName


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
    impossible: str | None = Field(
        default=None,
        description="Why its nodes could not hold the job if nothing else ran; null when they "
        "could. The job runs once other nodes have joined.",
    )
    autoscaled: bool = Field(
        default=True,
        description="Whether they could with all nodes that an autoscaler may add.",
    )
    ahead: int = Field(
        default=0,
        description="Number of queued jobs whose turn comes first, of those that could run; 0 "
        "where the job does not wait for others.",
    )
    behind: str | None = Field(
        default=None,
        description="Id of the job directly ahead; null without one, for a job of another tenant, "
        "and far down a long queue.",
    )
    again_at: datetime | None = Field(
        default=None,
        description="Time before which the job is not placed again, because its replicas did not "
        "start; null when nothing but its turn and room is waited for.",
    )

    @property
    def needs_nodes(self) -> bool:
        """Whether no node can hold the job, of those there are or that an autoscaler may add."""
        return self.impossible is not None and not self.autoscaled


class StartPhases(Record):
    """Where the time went of the last start of a job, in seconds of a scheduler's clock."""

    queued: float = Field(description="In the queue, until a scheduler claimed the job.")
    place: float = Field(description="Choosing nodes, and starting the actors of the replicas.")
    prepare: float = Field(
        description="The processes of the replicas start, import torch and build the problem."
    )
    preflight: float = Field(description="The short run and its proofs; 0 in later starts.")
    compare: float = Field(
        default=0.0, description="The method is compared with the exact one; 0 in later starts."
    )
    first_iteration: float = Field(description="The first meta-iteration, with its commit.")

    @property
    def total(self) -> float:
        """From the queue to the first committed meta-iteration."""
        parts = (self.queued, self.place, self.prepare, self.preflight, self.compare)
        return sum(parts) + self.first_iteration


class Best(Record):
    """The best meta-iteration: until the job ends the one with the lowest smoothed validation loss.

    At the end the job retrains with fresh draws, which may choose another one; its figures then are
    means of draws that had no part in the choice.
    """

    iteration: int
    validation_loss: float = Field(
        description="Mean over fresh draws if draws is not 0, else the smoothed validation loss."
    )
    metrics: dict[str, float] = Field(
        default={},
        description="Metrics by name, likewise; they have no influence on the choice of the best.",
    )
    intervals: dict[str, Interval] = Field(
        default={},
        description="Intervals at 95 % of validation_loss and of metrics, by name: for the mean of "
        "ten retrainings if draws is not 0, else of the smoothed level.",
    )
    draws: int = Field(
        default=0,
        description="Number of fresh training runs that confirm the figures; 0: not confirmed.",
    )


class Doubt(Record):
    """A warning of a job: what makes its figures doubtful, or what did not go as asked."""

    code: str = Field(description="Code for programs: fidelity_low, preflight_incomplete, ...")
    message: str = Field(description="Explanation for people, with the remedy.")


class Proof(Record):
    """One proof of the preflight: a comparison of the engine with an independent computation."""

    name: ProofName
    result: Literal["passed", "failed", "skipped"]
    detail: str = Field(description="What was compared and the figure, or why it was skipped.")
    where: str | None = Field(
        default=None,
        description="The line of your code (my_problem.py:31), the field, or the name of the "
        "parameter, buffer or hyperparameter.",
    )
    remedy: str | None = Field(default=None, description="What to do about a failure.")
    seconds: float = Field(description="Seconds that the proof took.")


class JobError(Record):
    """The root cause of a job's failure."""

    code: str = Field(description="Code for programs: training_diverged, preflight_failed, ...")
    message: str = Field(
        description="Explanation for people: the expectation, the finding and the remedy."
    )
    iteration: int | None = Field(default=None, description="Meta-iteration in which it failed.")
    step: int | None = Field(default=None, description="Inner step at which it failed.")
    traceback: str | None = Field(
        default=None, description="Traceback of the worker, for errors of the user's code."
    )


class PreflightReport(Record):
    """What the preflight measured and proved on a worker."""

    hyperparameters: dict[str, list[int]] = Field(
        description="Shapes of the hyperparameters, by name."
    )
    failure: JobError | None = Field(
        default=None,
        description="Why the short meta-iteration has no result; its figures are then null.",
    )
    validation_loss: float | None = Field(
        description="Validation loss after the few training steps."
    )
    training_loss: float | None
    steps: int = Field(description="Inner steps of the short meta-iteration.")
    seconds: float | None = Field(description="Seconds that the short meta-iteration took.")
    method: str = Field(description="Method that computes its hypergradient.")
    fidelity: dict[str, float | None] = Field(
        description="Cosine to the exact hypergradient over the few steps, by method; null where "
        "it diverged. Over many steps it may be lower."
    )
    agreement: float | None = Field(
        default=None,
        description="Cosine between the exact hypergradients of two draws of weights and "
        "minibatches over the few steps: the ceiling of every fidelity. Null where it is not "
        "known, and in reports of earlier releases.",
    )
    job_seconds: float | None = Field(
        description="Predicted seconds of the whole job, on a worker like this one."
    )
    memory_bytes: int | None = Field(description="Predicted peak memory of a replica.")
    checkpoint_bytes: int | None = Field(
        default=None,
        description="Size of a checkpoint of a replica of an online job; null for another job, and "
        "in reports of earlier releases.",
    )
    model_bytes: int | None = Field(
        default=None,
        description="Size of the trained model as the service keeps it: of a model with frozen "
        "weights what training changes. Null in reports of earlier releases.",
    )
    model_refusal: str = Field(
        default="",
        description="Why the service keeps no model of the job; empty if it keeps it, and in the "
        "report of `drmad check`, which knows no service.",
    )
    weights: str = Field(
        default="",
        description="Weights that training runs start from: as they were given, or how they are "
        "drawn; empty in reports of earlier releases.",
    )
    limits: list[str] = Field(
        default=[],
        description="What the method's hypergradient leaves out on this problem, a sentence each.",
    )
    proofs: list[Proof] = Field(
        default=[],
        description="The proofs in the order in which they ran; empty in reports of earlier "
        "releases.",
    )

    @property
    def failed(self) -> list[Proof]:
        return [proof for proof in self.proofs if proof.result == "failed"]

    @property
    def divergence(self) -> JobError | None:
        """The failure, if the job's own training diverged in its first steps."""
        diverged = self.failure is not None and self.failure.code == "training_diverged"
        return self.failure if diverged else None

    def refusal(self, preflight: PreflightSpec) -> str:
        """Why a job with this report does not start; empty if it starts."""
        refused = {
            proof.name: f"{proof.name}{f' ({proof.where})' if proof.where else ''}: {proof.detail}"
            f"{f'; {proof.remedy}' if proof.remedy else ''}"
            for proof in self.failed
            if proof.name not in preflight.override
        }
        if self.divergence is not None and "training" not in preflight.override:
            refused["training"] = f"training: {self.divergence.message}"
        if not refused:
            return ""
        names = ", ".join([*preflight.override, *refused])
        what = "proofs of the preflight failed" if self.failed else "training diverges"
        return "\n".join(
            [
                f"{what}, so the job does not start:",
                *(f"  {line}" for line in refused.values()),
                "correct the cause, or start the job in spite of the failure with "
                f"preflight: {{override: [{names}]}}",
            ]
        )

    def warnings(self, preflight: PreflightSpec) -> list[str]:
        """What every record of the job carries: overridden failures, and limits that were found."""
        limits = [
            f"preflight: {proof.name}: {proof.detail}"
            for proof in self.proofs
            if proof.result == "passed" and proof.where is not None
        ]
        return self.overridden(preflight) + self.unproved() + self.doubts() + limits

    def doubts(self) -> list[str]:
        """Why the hypergradient of the short run is of little use, with what to change.

        The agreement of draws is none of them: over a few steps from other weights it is low on
        problems that are tuned well. Over all steps it is judged when the job starts.
        """
        found = []
        cosine = self.fidelity.get(self.method, 1.0)
        if cosine is None or cosine < defaults.Fidelity.cosine:
            how = "diverges" if cosine is None else f"has a cosine of {cosine:.3g}"
            found.append(
                f"preflight: over its {self.steps} steps the hypergradient of {self.method} {how} "
                "to the exact one: hypergradient: {method: auto} selects a method of sufficient "
                "fidelity"
            )
        return found

    def unproved(self) -> list[str]:
        """What the method leaves out, that the short run failed, and which proofs did not run."""
        found = [f"preflight: {limit}" for limit in self.limits]
        if self.failure is not None:
            skipped = [proof.name for proof in self.proofs if proof.result == "skipped"]
            rest = f"; proofs that did not run: {', '.join(skipped)}" if skipped else ""
            why = f"{self.failure.message}{rest}"
            found.append(f"preflight: its {self.steps} steps have no result: {why}")
        return found

    def overridden(self, preflight: PreflightSpec) -> list[str]:
        """One sentence for each failed proof that the job overrides."""
        return [
            f"preflight: {proof.name} failed and was overridden: {proof.detail}"
            for proof in self.failed
            if proof.name in preflight.override
        ]


def _accepted(spec: Any, validate: ValidatorFunctionWrapHandler) -> JobSpec:
    return spec if isinstance(spec, JobSpec) else JobSpec.accepted(spec)


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
    created_by: str | None = Field(
        default=None,
        description="Id of the API key that created the job, `local` for that of the machine; null "
        "for a job of an earlier release.",
    )
    waiting: Waiting | None = Field(
        default=None, description="Requested and available resources, while the job is queued."
    )
    forked_from: str | None = Field(
        default=None, description="Job and meta-iteration from which it continues, as in job_...@7."
    )
    started_from: str | None = Field(
        default=None,
        description="Job and meta-iteration whose hyperparameters are its first values, as in "
        "job_...@7.",
    )
    not_batched: str | None = Field(
        default=None,
        description="Why each replica has an actor of its own in spite of replicas.batched: auto.",
    )
    adapted: list[str] = Field(
        default=[],
        description="What of the state it continues from, or of the values it starts from, was "
        "adapted to the job.",
    )
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress
    start_phases: StartPhases | None = Field(
        default=None,
        description="Duration of each phase of the job's last start; null until its first "
        "meta-iteration is committed.",
    )
    usage: Usage = Field(
        default=Usage(), description="CPU and GPU seconds that were reserved for the job."
    )
    preflight: PreflightReport | None = Field(
        default=None, description="What the preflight on its first worker measured and predicted."
    )
    start: Start | None = Field(
        default=None, description="Values with which the job starts after its search."
    )
    best: Best | None = None
    confirmation: Confirmation | None = Field(
        default=None,
        description="What retraining at the end of the job says of its result; null before.",
    )
    answer: str = Field(
        default="",
        description='What its last retraining found: "test error 5.1 ± 0.4 % in place of 11.1 ± '
        '1.9 %", means with intervals at 95 %; empty before.',
    )
    error: JobError | None = None
    warnings: list[Doubt] = Field(
        default=[],
        description="Its last warnings, each once, at most 20; empty for those of jobs of earlier "
        "releases, whose events have them.",
    )
    hyperparameters: list[HyperparameterInfo] = Field(
        default=[], description="Tuned tensors; empty until a worker has built the problem."
    )
    transitions: list[Transition] = Field(
        default=[], description="Changes of the job's state, oldest first."
    )
    tags: dict[str, str] = Field(default={}, description="Labels that the user set, by key.")
    note: str = Field(default="", description="Note of the users on the job.")
    archived_at: datetime | None = Field(
        default=None,
        description="Time at which the job was archived: lists leave it out; null for others.",
    )
    spec: Annotated[JobSpec, WrapValidator(_accepted)]
    version: int = Field(
        description="Version of the record, which increases with every change; it is also the ETag."
    )

    @property
    def failed_preflight(self) -> bool:
        """Whether the job failed by its preflight, before its first meta-iteration."""
        refusal = self.preflight.refusal(self.spec.preflight) if self.preflight else ""
        return self.error is not None and self.error.message == refusal

    @property
    def counted_in(self) -> str:
        """What its progress counts: meta-iterations, or windows of an online job."""
        return "window" if self.spec.meta.mode == "online" else "meta-iteration"

    @property
    def begun(self) -> JobSpec:
        """The spec of its meta-iterations, with the values that the search found."""
        return self.spec.started_from(self.start.values) if self.start else self.spec
