"""The tuned tensors of a job: their shapes, parts and summaries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drmad_client.records.base import Record


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
