"""One meta-iteration: one hypergradient, one update, and what each replica reported."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.hyperparameters import HyperparameterSummary


class ReplicaFigures(Record):
    """What one replica reported of its meta-iteration."""

    replica: int
    validation_loss: float
    hypergradient_norm: float
    cosine_to_mean: float = Field(
        description="Cosine of its hypergradient to the aggregated one, over the entries it holds."
    )
    staleness: int = Field(
        default=0, description="Updates applied while it was computed; 0 in sync rounds."
    )
    seconds: dict[str, float] = Field(description="Seconds by phase: forward, backward, evaluate.")
    peak_memory_bytes: int
    train_examples: int | None = Field(
        default=None, description="Training examples that the replica holds."
    )
    valid_examples: int | None = Field(
        default=None, description="Validation examples that the replica holds."
    )
    node: str = ""
    device: str = ""


class MetaIteration(Record):
    """One hypergradient and one update. Its figures belong to the hyperparameters it began with."""

    iteration: int = Field(
        description="Number of the meta-iteration: 0, 1, ..., without gap or repeat."
    )
    at: datetime = Field(description="Time of the commit, UTC.")
    validation_loss: float
    training_loss: float = Field(description="Mean training loss over the last inner steps.")
    metrics: dict[str, float] = Field(
        default={}, description="Metrics by name: validation_error, test_error, ..."
    )
    hypergradient_norm: float
    cosine_to_previous: float | None = Field(
        default=None,
        description="Cosine of the hypergradient to that of the previous meta-iteration.",
    )
    hyperparameters: dict[str, HyperparameterSummary] = Field(
        default={}, description="A summary of each tensor, by name."
    )
    seconds: dict[str, float] = Field(
        default={}, description="Seconds by phase; total is wall time."
    )
    replicas: list[ReplicaFigures] = Field(
        default=[],
        description="Replicas that answered, by number; async: its arrivals in the order applied.",
    )
    method: str = Field(description="The method that computed the hypergradient.")
    cost: float | None = Field(
        default=None,
        description="Cost of the mean replica in plain training runs, by counting gradients and "
        "Hessian-vector products; it includes the fidelity probes of auto.",
    )
    choice: dict[str, Any] | None = Field(
        default=None,
        description="Result of a fidelity probe of auto: what it measured and chose, and why.",
    )
    warnings: list[str] = Field(
        default=[],
        description="What makes its figures doubtful: each failed proof of the preflight that the "
        "job overrides.",
    )
    is_best: bool = Field(description="Whether its validation loss is the lowest so far.")
    has_vectors: bool = Field(
        default=True, description="Whether its hyperparameters and hypergradient are still kept."
    )


class Arrival(Record):
    """One replica's hypergradient, applied by itself (replicas.mode: async).

    Arrivals of a meta-iteration that was not committed are computed again.
    """

    iteration: int = Field(description="Meta-iteration to which it belongs.")
    replica: int
    staleness: int = Field(description="Updates applied while it was computed.")
    validation_loss: float
    hypergradient_norm: float = Field(description="Euclidean, in raw units.")
    seconds: dict[str, float] = Field(description="Seconds by phase: forward, backward, evaluate.")
