"""What every part of a job's spec is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """Base of every part of a job: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
