"""The tuned tensors of a job: their shapes, parts and summaries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drmad_client.records.base import Record


class HyperparameterGroup(Record):
    """A labelled segment of a flattened tensor, such as the part of a layer."""

    label: str
    start: int
    stop: int


class HyperparameterInfo(Record):
    """One tuned tensor: its shape and how raw values become the user's units."""

    name: str
    kind: str
    shape: list[int]
    transform: Literal["identity", "exp", "sigmoid"] = Field(
        description="Function from a raw value to the user's units."
    )
    lower: float | None = None
    upper: float | None = None
    groups: list[HyperparameterGroup] = Field(
        default=[], description="Labelled segments; empty if there is only one."
    )


class GroupSummary(Record):
    """One part of a hyperparameter tensor, such as a layer."""

    label: str
    median: float = Field(description="Median of its values, in the user's units.")
    hypergradient_norm: float = Field(
        description="Euclidean norm of the hypergradient, in raw units."
    )


class HyperparameterSummary(Record):
    """Five quantiles of a vector in the user's units, and the norm of its hypergradient."""

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float
    hypergradient_norm: float = Field(
        description="Euclidean norm of the hypergradient, in raw units."
    )
    groups: list[GroupSummary] = Field(default=[], description="Summaries of its segments.")
