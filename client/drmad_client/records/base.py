"""The base of every record that the service returns."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of every record: immutable; it ignores the fields that a newer service adds."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")
