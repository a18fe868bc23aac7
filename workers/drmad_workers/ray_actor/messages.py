"""The messages between the scheduler and the workers: bytes, numbers and small dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drmad_workers.artifacts.job_artifacts import Kept
    from drmad_workers.evaluation import Evaluation

Infos = Sequence[Mapping[str, Any]]
"""One entry per hyperparameter: the fields of drmad_client.records.job.HyperparameterInfo."""

THREADS = 4
"""Threads of a worker: one computes, one reports, one waits while a straggler stops, and one takes
the outer step."""
TWO_RESULTS = frozenset({"arrival", "attribute", "differentiate", "meta_iteration", "train"})
"""Methods of the workers that return two objects, each of which has a reference of its own."""


@dataclass(frozen=True)
class Failure:
    """Why a replica or an outer step returned no result, in words for the job's user."""

    code: str
    message: str
    iteration: int | None = None
    step: int | None = None
    traceback: str | None = None


@dataclass(frozen=True)
class PackedState:
    """A MetaState in transit: its tensors as safetensors, its scalars as JSON values.

    Large tensors are an artifact, which ray_actor.state_files reads.
    """

    tensors: Kept
    scalars: dict[str, Any]


@dataclass(frozen=True)
class PackedTraining:
    """A TrainingState of drmad_workers.online in transit, packed as a PackedState."""

    tensors: Kept
    scalars: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """What a replica reports after it has built the problem.

    Attributes:
        hyperparameters: the infos of the hyperparameters, see Infos.
        start: the state before the first meta-iteration.
        not_batched: why the replicas of this worker cannot be computed as one batch; None if they
            can, or if it holds one replica.
        training_bytes: the size of the training state of a replica of an online job; 0 otherwise.
    """

    hyperparameters: list[dict[str, Any]]
    start: PackedState
    not_batched: str | None = None
    training_bytes: int = 0


@dataclass(frozen=True)
class ProgressReport:
    """The progress of a replica, and the lines that it printed since its last report.

    Attributes:
        read: the bytes of its standard output and error in the lines reported so far.
    """

    phase: str
    step: int
    steps: int
    lines: list[str]
    read: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(frozen=True)
class ReplicaResult:
    """One replica's part of a meta-iteration.

    Attributes:
        train_examples, valid_examples: the numbers of examples that the replica holds.
        node: the id of the Ray node.
        device: "cpu" or "cuda".
        trials: the validation losses at the points that the outer optimizer tries.
    """

    replica: int
    evaluation: Evaluation
    train_examples: int
    valid_examples: int
    node: str
    device: str
    trials: tuple[float, ...] = ()


@dataclass(frozen=True)
class AttributionResult:
    """The attribution of all draws of a job.

    Attributes:
        report: the fields of drmad_client.records.side_runs.attribution.AttributionReport.
        scores: a file of drmad_client.files.influence_scores.
    """

    report: dict[str, Any]
    scores: bytes


WorkerResults = list[ReplicaResult] | Failure
"""The results of all replicas of one worker."""


@dataclass(frozen=True)
class TrialResult:
    """The result of one training run of the search.

    Attributes:
        validation_loss: None if the training diverged.
        message: why there is no validation loss.
    """

    validation_loss: float | None
    metrics: dict[str, float]
    message: str = ""


@dataclass(frozen=True)
class Retrained:
    """One draw of a confirmation: the replicas of a worker, trained without any derivative.

    Attributes:
        figures: for each replica its metrics, "validation_loss" among them; None if its training
            diverged.
        model: the model of the first replica, as safetensors; None if it was not asked for, if it
            exceeds the size limit or if the training diverged.
    """

    figures: list[dict[str, float] | None]
    model: Kept | None = None


@dataclass(frozen=True)
class RollbackRequired:
    """A meta-iteration that must be rolled back; see meta.rollback."""

    message: str


@dataclass(frozen=True)
class StepResult:
    """The result of an accepted meta-iteration.

    Attributes:
        record: the fields of drmad_client.records.job.MetaIteration except its time.
        state: the state for the next meta-iteration.
        hypergradient: the aggregated hypergradient, as safetensors.
        model: the model of the first replica, as safetensors; None if it exceeds the size limit.
        finished: why the outer loop stops now; None if it continues.
        warnings: what its user should know, by the code of the warning.
        goes_on: whether the worker has begun the next meta-iteration; see run_ahead.
    """

    record: dict[str, Any]
    state: PackedState
    hypergradient: Kept
    model: Kept | None
    finished: str | None
    warnings: dict[str, str] = field(default_factory=dict)
    goes_on: bool = False
