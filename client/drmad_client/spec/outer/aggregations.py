"""The names of the aggregations of several hypergradients. Needs no pydantic."""

from __future__ import annotations

from typing import Literal

AggregationName = Literal["mean", "sign", "median"]
