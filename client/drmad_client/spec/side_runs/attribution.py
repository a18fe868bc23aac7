"""What an attribution asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from drmad_client.spec import bounds, defaults
from drmad_client.spec.base import Misfit, Spec
from drmad_client.spec.side_runs.queries import parse_query

if TYPE_CHECKING:
    from drmad_client.spec.replicas import ReplicasSpec

METHODS = ("auto", "replay", "stored", "shortcut")
"""The methods of an attribution; auto takes replay."""


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


def attribution_misfits(
    kinds: list[str],
    has_search: bool,
    iterations: int,
    method: str,
    replicas: ReplicasSpec,
) -> Iterator[Misfit]:
    """The parts of a job of kind attribution that belong to tuning."""
    if kinds:
        message = (
            "must be left out, because an attribution differentiates by the weights of the "
            "training examples: state rates and weight decay under training"
        )
        yield ("hyperparameters",), kinds, message
    if has_search:
        message = "must be left out of an attribution, which trains at the settings as they are"
        yield ("search",), None, message
    if iterations != 1:
        message = f"must be left out of an attribution, which has no outer steps, got {iterations}"
        yield ("meta", "iterations"), iterations, message
    if method not in METHODS:
        message = f"must be {', '.join(METHODS)} for an attribution, got {method}"
        yield ("hypergradient", "method"), method, message
    if replicas.mode != "sync":
        message = f"must be sync for an attribution, whose replicas are draws, got {replicas.mode}"
        yield ("replicas", "mode"), replicas.mode, message
    if replicas.data != "shared":
        message = f"must be shared for an attribution, which scores all rows, got {replicas.data}"
        yield ("replicas", "data"), replicas.data, message
