"""The trials of a search, and the values with which the job starts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from drmad_client.records.base import Record


class Trial(Record):
    """One training run of the search, at one choice of the searched scalars."""

    number: int = Field(
        description="Index of the trial: 0, 1, ...; trials end in any order. Pages, figures and "
        "commands name its number, which is one more."
    )
    at: datetime = Field(description="Time at which it was recorded, UTC.")
    state: Literal["done", "diverged", "refused"] = Field(
        description="Outcome; refused means that its values together make no valid job."
    )
    values: dict[str, Any] = Field(description="Values by their paths in the job.")
    validation_loss: float | None = Field(
        default=None, description="Validation loss; null unless the state is done."
    )
    metrics: dict[str, float] = Field(
        default={}, description="Metrics by name; they have no influence on the choice of the best."
    )
    seconds: float = 0.0
    message: str = Field(default="", description="Reason for a missing validation loss.")


class Start(Record):
    """The values at which the job starts after its search."""

    trial: int = Field(description="Number of the best trial.")
    values: dict[str, Any] = Field(description="Values by their paths in the job.")
    validation_loss: float
