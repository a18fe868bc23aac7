"""What retraining measured outranks what fidelity predicts, in every combination of the two."""

from __future__ import annotations

from typing import Literal

import pytest

from drmad_client.records.job import Doubt, JobRecord
from drmad_client.records.side_runs.confirmation import Interval
from drmad_client.records.side_runs.retraining import Retraining
from drmad_client.records.side_runs.validation import Validation, ValidationReport, Verdict
from drmad_client.records.status import JobStatus
from drmad_client.spec.side_runs.preflight import PreflightSpec, ProofName
from drmad_client.spec.side_runs.validation import ValidationSpec
from drmad_service.dashboard import job_trust, job_verdict, rendering
from drmad_service.dashboard.job_trust import Trust
from tests.client import samples
from tests.service.dashboard.test_job_verdict import confirmed, retrained

Measured = Literal["better", "worse", "level", "nothing"]

LOW = Doubt(code="fidelity_low", message="a cosine of .006")
OVERFITTED = Doubt(code="overfitting", message="the validation data are overfitted")
LOST = Doubt(code="replica_lost", message="a node failed")


def job_of(confirmation: Measured, *warnings: Doubt) -> JobRecord:
    job = {
        "better": lambda: confirmed(0.11, 0.05, 0.01),
        "worse": lambda: confirmed(0.05, 0.11, 0.01),
        "level": lambda: confirmed(0.05, 0.045, 0.01),
        "nothing": lambda: samples.job(JobStatus.SUCCEEDED, 3),
    }[confirmation]()
    return job.model_copy(update={"warnings": list(warnings)})


def retraining_of(found: Measured) -> Retraining | None:
    return {
        "better": retrained(0.05, 0.09, 0.02),
        "worse": retrained(0.09, 0.05, 0.02),
        "level": retrained(0.05, 0.09, 0.06),
        "nothing": None,
    }[found]


def trust_of(
    job: JobRecord, found: Retraining | None = None, validated: Validation | None = None
) -> Trust | None:
    verdict = job_verdict.judged(job, None, None, None, found)
    return job_trust.trust(job, verdict, validated)


MARKS = {"worse": "worse", "level": "no gain"}


@pytest.mark.parametrize("is_low", [False, True])
@pytest.mark.parametrize("confirmation", ["better", "worse", "level", "nothing"])
@pytest.mark.parametrize("retraining", ["better", "worse", "level", "nothing"])
def test_retraining_is_judged_before_confirmation_and_both_before_fidelity(
    retraining: Measured, confirmation: Measured, is_low: bool
) -> None:
    measured = retraining if retraining != "nothing" else confirmation
    job = job_of(confirmation, *([LOW] if is_low else []))
    found = trust_of(job, retraining_of(retraining))
    if measured in MARKS:
        assert found is not None
        assert found.mark == MARKS[measured]
        assert found.reasons[0].startswith("retraining ")
        assert found.reasons[1:] == ([LOW.message] if is_low else [])
    elif not is_low:
        assert found is None
    else:
        assert found == Trust("holds" if measured == "better" else "doubtful", [LOW.message])


def test_a_result_that_holds_says_what_its_hypergradient_means_for_more_meta_iterations() -> None:
    found = trust_of(job_of("better", LOW, LOST))
    assert found is not None
    html = rendering.render("verdict.html", "/", verdict=None, trust=found, other_warnings={})
    assert "The result holds as retrained, but the hypergradient is inaccurate" in html
    assert LOW.message in html
    assert "after Extend or Fork, retrain again" in html
    assert "warning" not in html
    others = job_trust.other_warnings(job_of("better", LOW, LOST))
    assert others == {"replica_lost": ["a node failed"]}


def test_overfitted_validation_data_are_no_doubt_about_a_gain_on_test_data() -> None:
    assert trust_of(job_of("better", OVERFITTED)) is None
    assert trust_of(job_of("nothing", OVERFITTED)) == Trust("doubtful", [OVERFITTED.message])
    on_validation = retrained(0.05, 0.09, 0.02)
    assert on_validation.report is not None
    figures = {"validation_error": on_validation.report.figures["test_error"]}
    report = on_validation.report.model_copy(update={"figures": figures})
    found = trust_of(
        job_of("nothing", OVERFITTED), on_validation.model_copy(update={"report": report})
    )
    assert found == Trust("doubtful", [OVERFITTED.message])


@pytest.mark.parametrize(
    ("proof", "mark"), [("second_derivatives", "holds"), ("training", "doubtful")]
)
def test_an_overridden_proof_of_the_training_is_a_doubt_about_the_retraining_too(
    proof: ProofName, mark: str
) -> None:
    job = job_of("better")
    failed = samples.FAILED_PROOF.model_copy(update={"name": proof})
    preflight = samples.PREFLIGHT.model_copy(update={"proofs": [failed]})
    spec = job.spec.model_copy(update={"preflight": PreflightSpec(override=[proof])})
    found = trust_of(job.model_copy(update={"preflight": preflight, "spec": spec}))
    assert found is not None
    assert found.mark == mark
    assert "failed and was overridden" in found.reasons[0]


def test_a_hypergradient_that_predicts_no_retraining_is_no_doubt_about_one_that_gained() -> None:
    grade = Verdict(grade="does_not_predict", sentence="It predicts nothing.", remedies=[])
    report = ValidationReport(
        method={"method": "shortcut"},
        cost=1.2,
        runs=30.0,
        validation_loss=0.5,
        correlations=[],
        lds={},
        fidelity=None,
        agreement=None,
        unknown="",
        gain=None,
        gain_per_run=None,
        verdict=grade,
    )
    validated = Validation(
        id="validation_1",
        job_id="job_1",
        status="succeeded",
        requested_at=samples.START,
        iteration=2,
        asked=ValidationSpec(),
        report=report,
    )
    reason = "validation by retraining: It predicts nothing."
    assert trust_of(job_of("nothing"), validated=validated) == Trust("doubtful", [reason])
    assert trust_of(job_of("better"), validated=validated) == Trust("holds", [reason])


def test_the_validation_loss_of_the_same_draws_is_judged_by_its_difference() -> None:
    """The intervals of both overlap, and each draw is lower than before."""
    job = job_of("level")
    assert job.best is not None
    assert job.confirmation is not None
    assert job.confirmation.best is not None
    assert job.confirmation.first is not None
    of_loss = {"validation_loss": Interval(mean=0.5, low=0.3, high=0.7)}
    confirmation = job.confirmation.model_copy(
        update={
            "best": job.confirmation.best.model_copy(update={"figures": of_loss}),
            "first": job.confirmation.first.model_copy(update={"figures": of_loss}),
            "gain": Interval(mean=0.1, low=0.05, high=0.15),
        }
    )
    best = job.best.model_copy(update={"metrics": {}, "intervals": of_loss})
    paired = job.model_copy(update={"best": best, "confirmation": confirmation})
    verdict = job_verdict.judged(paired, None, None, None)
    assert verdict is not None
    assert verdict.tone == "better"
    assert verdict.comparison.startswith("0.1 better than the untuned 0.5 (0.3 to 0.7)")
    assert "under the same draws is significant" in verdict.comparison
    assert trust_of(paired) is None
