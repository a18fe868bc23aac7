"""The validation of a hypergradient by retraining."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.side_runs.side_run import SideRun
from drmad_client.spec.side_runs.validation import ValidationSpec


class RankCorrelation(Record):
    """Spearman's rank correlation of predicted and actual changes of the validation loss."""

    value: float | None = Field(
        description="From -1 to 1; null where nothing was predicted, or nothing changed."
    )
    low: float | None = Field(description="Lower end of the interval at 95 %, by the bootstrap.")
    high: float | None = Field(description="Upper end of the interval.")


class SizeCorrelation(RankCorrelation):
    """The rank correlation of one hyperparameter at one size of the changes (LDS)."""

    hyperparameter: str
    kind: Literal["left_out", "direction"] = Field(
        description="left_out: random subsets of the training examples lose their weight; "
        "direction: the hyperparameters move along random directions."
    )
    size: float = Field(
        description="Share of the examples that is left out, or length in outer steps."
    )
    retrainings: int = Field(description="Training runs after a change.")
    diverged: int = Field(description="Those of them that diverged; they rank last.")

    @property
    def label(self) -> str:
        """What was changed: "5 % left out" or "direction, 0.1 outer steps"."""
        if self.kind == "left_out":
            return f"{100 * self.size:g} % left out"
        return f"direction, {self.size:g} outer steps"


class DrawAgreement(Record):
    """Agreement of the exact hypergradients of several draws: the ceiling of every fidelity."""

    cosine: float = Field(
        description="Mean cosine over all pairs, of the hyperparameter where it is lowest."
    )
    low: float = Field(description="Smallest cosine of a pair.")
    high: float = Field(description="Largest cosine of a pair.")
    draws: int = Field(description="Number of draws of weights and minibatches.")
    of_four: float = Field(description="Expected cosine between two means over four draws each.")


class MeanInterval(Record):
    """A mean with its interval at 95 % by Student's t distribution."""

    mean: float
    low: float | None
    high: float | None
    count: int


class Verdict(Record):
    """What a validation means, and what to change."""

    grade: Literal["predicts", "in_part", "own_run_only", "does_not_predict", "unknown"]
    sentence: str = Field(description="What the figures mean.")
    remedies: list[str] = Field(description="What to change, the most useful first.")


class ValidationReport(Record):
    """What retraining says of a hypergradient."""

    method: dict[str, Any] = Field(description="Settings of the method that was validated.")
    cost: float = Field(description="Cost of a meta-iteration, in plain training runs.")
    runs: float = Field(description="Plain training runs that the validation took.")
    validation_loss: float | None = Field(
        description="Validation loss of the run that was differentiated; null if it diverged."
    )
    correlations: list[SizeCorrelation]
    lds: dict[str, RankCorrelation] = Field(
        description="By hyperparameter, the mean over its sizes: of the correlation, and of the "
        "ends of its interval."
    )
    fidelity: float | None = Field(
        description="Cosine to the exact hypergradient of the same draw."
    )
    agreement: DrawAgreement | None
    unknown: str = Field(description="Why fidelity or agreement is null; empty if neither is.")
    gain: MeanInterval | None = Field(
        description="How much one outer step lowers the validation loss, on draws that did not "
        "choose it; each is trained before and after the step."
    )
    gain_per_run: float | None = Field(
        description="The mean gain by the cost of the step in plain training runs."
    )
    verdict: Verdict


class Validation(SideRun):
    """One validation of a job's hypergradient on the cluster."""

    iteration: int = Field(description="Meta-iteration at whose hyperparameters it validates.")
    asked: ValidationSpec = Field(description="What was asked for.")
    report: ValidationReport | None = None
