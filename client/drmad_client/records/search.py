"""The trials of a search, and where it lets the job start."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from drmad_client.records.base import Record


class Trial(Record):
    """A training run of the search, at other values of a few scalars; no meta-iteration."""

    number: int = Field(description="0, 1, ...; they end in any order.")
    at: datetime = Field(description="When it was recorded, UTC.")
    state: Literal["done", "diverged", "refused"] = Field(
        description="refused: its values together make no job."
    )
    values: dict[str, Any] = Field(description="By path in the job.")
    validation_loss: float | None = Field(default=None, description="null unless it is done.")
    metrics: dict[str, float] = Field(default={}, description="Reported, never used to choose.")
    seconds: float = 0.0
    message: str = Field(default="", description="Why it gave no loss.")


class Start(Record):
    """Where the search lets the job start."""

    trial: int = Field(description="The number of the best.")
    values: dict[str, Any] = Field(description="By path in the job.")
    validation_loss: float
