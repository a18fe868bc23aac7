"""What an attribution found: the training examples that help and that harm each query."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.side_runs.validation import RankCorrelation


class ExampleInfluence(Record):
    """One training example and what it adds to a query."""

    row: int = Field(description="Position in the training data, from 0.")
    influence: float = Field(
        description="Change of the query to first order when the example is left out of the "
        "training; positive where it helps."
    )
    text: str | None = Field(
        default=None, description="What the problem's `describe` says of the example."
    )
    picture: str | None = Field(
        default=None, description="The example as a PNG in a data URL, where it is an image."
    )
    groups: dict[str, str] = Field(
        description="Class of the example and its columns, where the problem has them."
    )


class GroupInfluence(Record):
    """The training examples of one class, source or other group together."""

    group: str = Field(description="class, or the name of the problem's column.")
    label: str
    rows: int = Field(description="Number of training examples.")
    influence: float = Field(description="Sum of their influence.")


class AttributedQuery(Record):
    """A query with the examples that help it and that harm it most."""

    name: str
    value: float = Field(description="Its value after training on all examples; lower is better.")
    helpers: list[ExampleInfluence] = Field(description="Highest influence first.")
    harmers: list[ExampleInfluence] = Field(description="Lowest influence first.")
    groups: list[GroupInfluence]
    lds: RankCorrelation | None = Field(
        description="Rank correlation of predicted and actual changes on retraining without "
        "random subsets; null if nothing was retrained."
    )


class AttributionReport(Record):
    """What one backward pass says of every training example."""

    method: dict[str, Any] = Field(description="Settings of the method.")
    rows: int = Field(description="Number of training examples.")
    query_count: int = Field(description="Number of queries; the scores have all of them.")
    queries: list[AttributedQuery] = Field(description="The first queries, at most 100.")
    draws: int = Field(description="Draws of weights and minibatches, over which scores are means.")
    agreement: float | None = Field(
        description="Mean cosine between the scores of two draws; null for a single draw. The "
        "scores of one draw say little of another where it is low."
    )
    lds: RankCorrelation | None = Field(description="Mean over all queries that have one.")
    retrainings: int = Field(description="Training runs without a random subset.")
    diverged: int = Field(description="Those of them that diverged; they rank last.")
    left_out: float | None = Field(description="Share of the examples in a subset.")
    cost: float = Field(
        description="Cost of the scores in plain training runs, by counting gradients and products."
    )
    seconds: float = Field(description="Time of training and differentiating, of all draws.")
