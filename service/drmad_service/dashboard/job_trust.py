"""Whether the result of a job holds, and whether its hypergradient can be followed further.

What was measured outranks what was predicted: a retraining comes before the confirmation at the end
of the job, and both before the fidelity of the hypergradient. A result that is better on retraining
holds, whatever the hypergradient was; an inaccurate hypergradient then limits only what further
meta-iterations can gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drmad_client.records.job import JobRecord
from drmad_client.records.side_runs.validation import Validation
from drmad_client.spec.side_runs.preflight import ProofName
from drmad_service.dashboard.job_verdict import JobVerdict

Mark = Literal["holds", "worse", "no gain", "doubtful"]

_OF_HYPERGRADIENT = ("fidelity_low", "draws_disagree")
"""Codes of warnings that predict a hypergradient of little use."""
_OVERFITTING = "overfitting"
_PROOFS_OF_HYPERGRADIENT: tuple[ProofName, ...] = ("second_derivatives", "hypergradient")
"""Proofs of the derivatives alone; a retraining needs none of them, and it needs the others."""

_TITLES: dict[Mark, str] = {
    "holds": "The result holds as retrained, but the hypergradient is inaccurate",
    "worse": "Worse than the untuned hyperparameters",
    "no gain": "No significant gain over the untuned hyperparameters",
    "doubtful": "Doubtful: not to be trusted as it stands",
}
_ADVICE: dict[Mark, str] = {
    "holds": "Further meta-iterations follow the same hypergradient: after Extend or Fork, retrain "
    "again before you trust the result.",
    "worse": "Keep the untuned hyperparameters.",
    "no gain": "",
    "doubtful": "",
}


@dataclass(frozen=True)
class Trust:
    """The banner below the verdict.

    Attributes:
        mark: one or two words for a list of jobs.
        reasons: a sentence each, the measured one first.
        advice: what follows; empty where the reasons say it.
    """

    mark: Mark
    reasons: list[str]

    @property
    def title(self) -> str:
        return _TITLES[self.mark]

    @property
    def advice(self) -> str:
        return _ADVICE[self.mark]


def trust(
    job: JobRecord, verdict: JobVerdict | None, validated: Validation | None = None
) -> Trust | None:
    """What there is to say against a result; None where nothing is known.

    Args:
        verdict: the one that the page shows.
        validated: a validation of the hypergradient with a report.
    """
    measured, reason = _measured(job, verdict)
    is_proved_by_test = measured == "better" and verdict is not None and verdict.is_of_test_data
    against_result = _overridden(job, of_hypergradient=False)
    if not is_proved_by_test:
        against_result += _warnings(job, _OVERFITTING)
    against_hypergradient = [
        *_warnings(job, *_OF_HYPERGRADIENT),
        *_overridden(job, of_hypergradient=True),
    ]
    if job.preflight is not None and not _warnings(job, "fidelity_low"):
        against_hypergradient += job.preflight.doubts()
    report = validated.report if validated else None
    if report is not None and report.verdict.grade == "does_not_predict":
        against_hypergradient.append(f"validation by retraining: {report.verdict.sentence}")
    predicted = list(dict.fromkeys(against_result + against_hypergradient))
    if measured in ("worse", "no gain"):
        return Trust(measured, [reason, *predicted])
    if not predicted:
        return None
    return Trust("holds" if measured == "better" and not against_result else "doubtful", predicted)


def _measured(
    job: JobRecord, verdict: JobVerdict | None
) -> tuple[Literal["better", "worse", "no gain", "nothing"], str]:
    """What training again says of the result, and in which sentence it speaks against it."""
    if verdict is None or verdict.source == "smoothed":
        return "nothing", ""
    name = verdict.label.lower()
    worse = f"retraining finds the {name} of the tuned hyperparameters worse"
    no_gain = f"retraining shows no significant gain in the {name}"
    if verdict.tone == "better":
        return "better", ""
    if verdict.tone == "worse":
        return "worse", worse
    gain = job.confirmation.gain if job.confirmation else None
    if verdict.source == "retraining" or gain is None:
        return ("no gain", no_gain) if verdict.tone == "level" else ("nothing", "")
    # The gain is the difference on the same draws, and the figure of the verdict has none.
    if gain.high is not None and gain.high <= 0.0:
        return "worse", "retraining finds the validation loss of the tuned hyperparameters worse"
    if gain.low is not None and gain.low <= 0.0:
        return "no gain", "retraining shows no significant gain in the validation loss"
    return "nothing", ""


def _warnings(job: JobRecord, *codes: str) -> list[str]:
    return [warning.message for warning in job.warnings if warning.code in codes]


def _overridden(job: JobRecord, *, of_hypergradient: bool) -> list[str]:
    """Failed proofs that the job overrides: those of the derivatives, or the others."""
    if job.preflight is None:
        return []
    override = [
        name
        for name in job.spec.preflight.override
        if (name in _PROOFS_OF_HYPERGRADIENT) == of_hypergradient
    ]
    return job.preflight.overridden(job.spec.preflight.model_copy(update={"override": override}))


def other_warnings(job: JobRecord) -> dict[str, list[str]]:
    """The messages, by code, of the warnings that do not touch the trust in the result."""
    found: dict[str, list[str]] = {}
    for warning in job.warnings:
        if warning.code not in (*_OF_HYPERGRADIENT, _OVERFITTING):
            found.setdefault(warning.code, []).append(warning.message)
    return found
