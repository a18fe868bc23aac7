"""The base of every answer of the service."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of every answer: immutable; a field that a newer service adds is ignored."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")
