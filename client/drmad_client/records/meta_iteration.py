"""One meta-iteration: one hypergradient, one update, and the report of each replica."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.hyperparameters import HyperparameterSummary
from drmad_client.records.side_runs.confirmation import Interval


class ReplicaFigures(Record):
    """The report of one replica on its meta-iteration."""

    replica: int
    validation_loss: float
    hypergradient_norm: float
    cosine_to_mean: float = Field(
        description="Cosine of its hypergradient to the aggregated one, over the entries it holds."
    )
    staleness: int = Field(
        default=0, description="Number of updates applied while it was computed; 0 in sync rounds."
    )
    seconds: dict[str, float] = Field(
        description="Duration of each phase (forward, backward, evaluate), in seconds."
    )
    peak_memory_bytes: int
    train_examples: int | None = Field(
        default=None, description="Number of training examples that the replica holds."
    )
    valid_examples: int | None = Field(
        default=None, description="Number of validation examples that the replica holds."
    )
    node: str = ""
    device: str = ""


class MetaIteration(Record):
    """One hypergradient and one update. Its figures belong to the hyperparameters it began with."""

    iteration: int = Field(
        description="Index of the meta-iteration: 0, 1, ..., without gap or repeat. Pages, "
        "figures and commands name its number, which is one more."
    )
    at: datetime = Field(description="Time of the commit, UTC.")
    validation_loss: float
    training_loss: float = Field(description="Mean training loss over the last inner steps.")
    metrics: dict[str, float] = Field(
        default={}, description="Metrics by name: validation_error, test_error, ..."
    )
    not_finite: dict[str, Literal["nan", "inf", "-inf"]] = Field(
        default={},
        description="Metrics whose value is no finite number, which `metrics` leaves out: they "
        "have no level and no figure, and do not fail the job.",
    )
    smoothed: dict[str, Interval] = Field(
        default={},
        description="Level of validation_loss and of each metric: the mean over the last "
        "meta-iterations whose losses agree within their noise, at most eight, and its interval at "
        "95 %. Empty in records of earlier releases.",
    )
    hypergradient_norm: float
    cosine_to_previous: float | None = Field(
        default=None,
        description="Cosine of the hypergradient to that of the previous meta-iteration.",
    )
    hyperparameters: dict[str, HyperparameterSummary] = Field(
        default={}, description="Summary of each tensor, by name."
    )
    seconds: dict[str, float] = Field(
        default={}, description="Duration of each phase, in seconds; total is wall time."
    )
    replicas: list[ReplicaFigures] = Field(
        default=[],
        description="Reports of the replicas that answered, by number; in async mode, of the "
        "arrivals in the order in which they were applied.",
    )
    method: str = Field(description="Method that computed the hypergradient.")
    cost: float | None = Field(
        default=None,
        description="Cost of the mean replica in plain training runs, by counting gradients and "
        "Hessian-vector products; it includes the fidelity probes of auto.",
    )
    choice: dict[str, Any] | None = Field(
        default=None,
        description="Fidelity probe of auto: its measurements, the chosen method and the reason; "
        "the method on trial, which is chosen once it qualified in enough successive draws.",
    )
    warnings: list[str] = Field(
        default=[],
        description="What makes its figures doubtful: each failed proof of the preflight that the "
        "job overrides.",
    )
    is_best: bool = Field(description="Whether its smoothed validation loss is the lowest so far.")
    has_vectors: bool = Field(
        default=True,
        description="Whether the service still keeps its hyperparameters and hypergradient.",
    )


class Arrival(Record):
    """One replica's hypergradient, applied by itself (replicas.mode: async).

    Arrivals of a meta-iteration that was not committed are computed again.
    """

    iteration: int = Field(description="Meta-iteration to which it belongs.")
    replica: int
    staleness: int = Field(description="Number of updates applied while it was computed.")
    validation_loss: float
    hypergradient_norm: float = Field(
        description="Euclidean norm of the hypergradient, in raw units."
    )
    seconds: dict[str, float] = Field(
        description="Duration of each phase (forward, backward, evaluate), in seconds."
    )
