"""How the hypergradients of several replicas become one; the names. Needs no pydantic."""

from __future__ import annotations

from typing import Literal

AggregationName = Literal["mean", "sign", "median"]
