"""Retraining without the rows of lowest score."""

from __future__ import annotations

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.validation import MeanInterval


class FigureComparison(Record):
    """One held-out figure with all rows, and without the dropped ones."""

    all_rows: MeanInterval = Field(description="Trained on all rows.")
    without: MeanInterval = Field(description="Trained without the dropped rows.")
    difference: MeanInterval = Field(
        description="Without less with them, under the same seeds; negative where the figure fell."
    )


class FilteredTrainingReport(Record):
    """Training runs with all rows and without the dropped ones, under the same seeds."""

    rows: int = Field(description="Number of training rows.")
    dropped: int = Field(description="Number of rows that were dropped.")
    seeds: int = Field(description="Draws of weights and minibatches.")
    diverged: int = Field(description="Training runs that diverged; their seeds do not count.")
    figures: dict[str, FigureComparison] = Field(
        description="By name, such as validation_loss or test_error."
    )
