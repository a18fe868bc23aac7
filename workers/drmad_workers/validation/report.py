"""What retraining says of a hypergradient.

[Park2023] TRAK: attributing model behavior at scale, 2303.14186 (LDS, section 2).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from drmad_workers.hypergradients.agreement import DrawAgreement
from drmad_workers.validation.changes import ChangeKind
from drmad_workers.validation.mean_interval import MeanInterval
from drmad_workers.validation.rank_correlation import RankCorrelation
from drmad_workers.validation.verdict import Verdict


@dataclass(frozen=True)
class Correlation:
    """The LDS of one hyperparameter at one size [Park2023].

    Attributes:
        kind, size: see Change.
        retrainings: the training runs after a change.
        diverged: those of them that diverged; they rank as the largest loss.
        correlation: of the predicted and the actual changes of the validation loss.
    """

    hyperparameter: str
    kind: ChangeKind
    size: float
    retrainings: int
    diverged: int
    correlation: RankCorrelation


@dataclass(frozen=True)
class ValidationReport:
    """What retraining says of a hypergradient.

    Attributes:
        method: the settings of the method, with its name under "method".
        cost: the cost of a meta-iteration by the method, in plain training runs.
        runs: the plain training runs that the validation took.
        validation_loss: at λ, of the draw that was differentiated; None if training diverged.
        correlations: by hyperparameter and size.
        lds: by hyperparameter, the mean over its sizes.
        fidelity: the cosine to the exact hypergradient of the same draw.
        agreement: the agreement of the exact hypergradients of several draws, the ceiling of every
            fidelity.
        unknown: why fidelity or agreement is not known; empty if both are.
        gain: how much one outer step lowers the validation loss, over draws that did not choose
            it: each is trained before and after the step.
        gain_per_run: `gain` by the cost of the step in plain training runs.
        verdict: what it means, and what to change.
    """

    method: dict[str, Any]
    cost: float
    runs: float
    validation_loss: float | None
    correlations: list[Correlation]
    lds: dict[str, RankCorrelation]
    fidelity: float | None
    agreement: DrawAgreement | None
    unknown: str
    gain: MeanInterval | None
    gain_per_run: float | None
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """The fields of drmad_client.records.side_runs.validation.ValidationReport."""
        fields = asdict(self)
        for each in fields["correlations"]:
            each |= each.pop("correlation")
        if self.agreement is not None:
            fields["agreement"]["of_four"] = self.agreement.averaged(4)
        return fields


def lds_of(correlations: Sequence[Correlation], name: str) -> RankCorrelation:
    """The mean of a hyperparameter's correlations over all sizes, and of their intervals' ends."""
    known = [each.correlation for each in correlations if each.hyperparameter == name]
    values = [each for each in known if each.value is not None]
    return (
        RankCorrelation(
            *(
                fmean(parts) if (parts := [p for p in column if p is not None]) else None
                for column in zip(
                    *((each.value, each.low, each.high) for each in values), strict=True
                )
            )
        )
        if values
        else RankCorrelation(None)
    )
