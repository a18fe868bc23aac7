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
    hyperparameters: dict[str, HyperparameterSummary] = Field(
        default={}, description="A summary of each tensor, by name."
    )
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
