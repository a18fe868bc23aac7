"""The confirmation of a job's result by retraining: means and intervals of fresh draws."""

from __future__ import annotations

from pydantic import Field

from drmad_client.records.base import Record


class Interval(Record):
    """A mean and its interval at 95 %."""

    mean: float
    low: float | None = Field(default=None, description="Lower end; null where it is unknown.")
    high: float | None = Field(default=None, description="Upper end; null where it is unknown.")


class ConfirmedFigures(Record):
    """Figures of one meta-iteration's hyperparameters, from training runs with fresh draws."""

    iteration: int
    draws: int = Field(description="Number of the training runs.")
    diverged: int = Field(description="Number of those that diverged; the means leave them out.")
    figures: dict[str, Interval] = Field(
        description="validation_loss and the metrics by name: the mean, and the interval in which "
        "the mean of ten further retrainings lies."
    )


class Candidate(Record):
    """A candidate of the race for the best."""

    iteration: int
    draws: int = Field(description="Number of its training runs in the race.")
    validation_loss: float | None = Field(
        description="Mean of its validation losses in the race, the leader's is lucky; null if "
        "each of them diverged."
    )


class Confirmation(Record):
    """What retraining at the end of the job says of its result."""

    iterations: int = Field(description="Number of meta-iterations that were committed then.")
    runs: float = Field(
        description="Training runs that the meta-iterations and the search cost, by counting "
        "gradients and Hessian-vector products, for each replica."
    )
    allowed: int = Field(description="Training runs that meta.confirmation allows.")
    draws: int = Field(default=0, description="Training runs that it took, for each replica.")
    reason: str = Field(default="", description="Why the result is not confirmed; empty if it is.")
    best: ConfirmedFigures | None = None
    last: ConfirmedFigures | None = Field(
        default=None, description="The last meta-iteration; null where the draws did not suffice."
    )
    first: ConfirmedFigures | None = Field(
        default=None, description="The first meta-iteration; null where the draws did not suffice."
    )
    gain: Interval | None = Field(
        default=None,
        description="Validation loss of the first meta-iteration less that of the best, on the "
        "same draws.",
    )
    candidates: list[Candidate] = Field(
        default=[], description="Candidates of the race for the best; empty if there was none."
    )
