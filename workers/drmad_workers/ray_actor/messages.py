"""What goes between the scheduler and the workers: bytes, numbers and these small classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drmad_workers.tuning import Evaluation


@dataclass(frozen=True)
class Failure:
    """Why a replica or a meta step gave no result, for the job's user."""

    code: str
    message: str
    iteration: int | None = None
    step: int | None = None
    traceback: str | None = None


@dataclass(frozen=True)
class PackedState:
    """A MetaState on its way: safetensors and plain values."""

    tensors: bytes
    scalars: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """What a replica found when it built the problem.

    `hyperparameters` has the fields of drmad_client.records.HyperparameterInfo.
    """

    hyperparameters: list[dict[str, Any]]
    start: PackedState


@dataclass(frozen=True)
class ProgressReport:
    """Where a replica is, and the lines it has printed."""

    phase: str
    step: int
    steps: int
    lines: list[str]


@dataclass(frozen=True)
class ReplicaResult:
    """One replica's part of a meta-iteration.

    `train_examples` and `valid_examples` are those that it holds.
    """

    replica: int
    evaluation: Evaluation
    train_examples: int
    valid_examples: int
    node: str
    device: str


@dataclass(frozen=True)
class TrialResult:
    """What one training run of the search gave."""

    validation_loss: float | None
    metrics: dict[str, float]
    message: str = ""
    """Why there is no loss."""


@dataclass(frozen=True)
class RollbackRequired:
    """A meta-iteration that the guard does not accept."""

    message: str


@dataclass(frozen=True)
class StepResult:
    """What a meta-iteration leaves behind.

    Attributes:
        record: fields of drmad_client.records.MetaIteration but its time.
        state: to go on from.
        hypergradient: aggregated, safetensors.
        model: that of the first replica, safetensors; None when larger than asked for.
        finished: a reason to stop now, or None.
    """

    record: dict[str, Any]
    state: PackedState
    hypergradient: bytes
    model: bytes | None
    finished: str | None
