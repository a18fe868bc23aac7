"""What an attribution asks for."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from drmad_client.spec import bounds, defaults
from drmad_client.spec.base import Spec
from drmad_client.spec.queries import parse_query


def _query(text: str) -> str:
    parse_query(text)
    return text


class AttributionSpec(Spec):
    """The queries of an attribution, and the retrainings that judge its scores."""

    queries: list[Annotated[str, Field(max_length=10_000), AfterValidator(_query)]] = Field(
        default=list(defaults.Attribution.queries),
        min_length=1,
        max_length=1000,
        description="Values whose origin is asked for. valid: the validation loss; each: the loss "
        "of every validation row; rows:0,5,10-19: of these; class:K: of a class; classes: of every "
        "class; measure:NAME: a metric of the problem, by which lower is better.",
    )
    lds: Annotated[int, bounds.Attribution.lds] = Field(
        default=defaults.Attribution.lds,
        description="Training runs without a random subset of the examples, by which the scores "
        "are judged; 0 for none.",
    )
    left_out: Annotated[float, bounds.Attribution.left_out] = Field(
        default=defaults.Attribution.left_out,
        description="Share of the training examples in such a subset.",
    )
