"""What the top of a job's page says of good, bad, unconfirmed and doubtful results."""

from __future__ import annotations

import pytest

from drmad_client.records.job import Best, JobRecord
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.side_runs.confirmation import Confirmation, ConfirmedFigures, Interval
from drmad_client.records.side_runs.retraining import RetrainedFigure, Retraining
from drmad_client.records.side_runs.validation import MeanInterval
from drmad_client.records.status import JobStatus
from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_service.dashboard import job_verdict
from tests.client import samples
from tests.service.store.test_retrainings import REPORT


def confirmed(first: float, best: float, half: float) -> JobRecord:
    """A job whose test error retraining found at `best`, from `first`."""

    def figures(iteration: int, error: float) -> ConfirmedFigures:
        interval = Interval(mean=error, low=error - half, high=error + half)
        return ConfirmedFigures(
            iteration=iteration, draws=9, diverged=0, figures={"test_error": interval}
        )

    after = figures(2, best)
    gain = Interval(mean=first - best, low=first - best - half, high=first - best + half)
    found = Confirmation(
        iterations=3, runs=30.0, allowed=9, best=after, first=figures(0, first), gain=gain
    )
    of_best = Best(
        iteration=2,
        validation_loss=0.5,
        metrics={"test_error": best},
        intervals=after.figures,
        draws=9,
    )
    return samples.job(JobStatus.SUCCEEDED, 3, best=of_best, confirmation=found)


@pytest.mark.parametrize(
    ("first", "best", "tone", "words"),
    [
        (0.11, 0.05, "better", "6.00 points better than the untuned 11.00 % (10.0 to 12.0 %)"),
        (0.05, 0.11, "worse", "6.00 points worse than the untuned 5.00 %"),
        (0.05, 0.045, "level", "the intervals overlap: this may be chance"),
    ],
)
def test_a_result_is_told_as_better_or_worse_only_beyond_its_noise(
    first: float, best: float, tone: str, words: str
) -> None:
    job = confirmed(first, best, 0.01)
    verdict = job_verdict.judged(job, None, None, None)
    assert verdict is not None
    assert verdict.tone == tone
    assert words in verdict.comparison


def test_a_difference_below_the_digits_is_none_and_a_share_ends_at_its_bounds() -> None:
    verdict = job_verdict.judged(confirmed(0.97, 0.970001, 0.1), None, None, None)
    assert verdict is not None
    assert verdict.comparison.startswith("No difference from the untuned 97.00 % (87.0 to 100.0 %)")
    assert verdict.interval == "87.0 to 100.0 %"


def test_a_single_run_is_no_proof() -> None:
    job = samples.job(JobStatus.SUCCEEDED, 3)
    first = samples.record(0).model_copy(update={"metrics": {"test_error": 0.5}})
    verdict = job_verdict.judged(job, first, None, None)
    assert verdict is not None
    assert verdict.tone == "unsure"
    assert "43.75 points better than the untuned 50.00 %" in verdict.comparison
    assert "one training run without an interval" in verdict.comparison
    assert job_verdict.judged(samples.job(), None, None, None) is None


def retrained(tuned: float, untuned: float, half: float) -> Retraining:
    """A retraining whose seeds differ by .05, and by `half` in the difference of both recipes."""

    def around(mean: float, half: float) -> MeanInterval:
        return MeanInterval(mean=mean, low=mean - half, high=mean + half, count=3)

    figure = RetrainedFigure(
        tuned=around(tuned, 0.05),
        untuned=around(untuned, 0.05),
        difference=around(tuned - untuned, half),
    )
    return Retraining(
        id="retraining_1",
        job_id="job_1",
        status="succeeded",
        requested_at=samples.job().created_at,
        iteration=2,
        asked=RetrainingSpec(seeds=3),
        report=REPORT.model_copy(update={"seeds": 3, "figures": {"test_error": figure}}),
    )


@pytest.mark.parametrize(
    ("found", "tone", "words"),
    [
        (retrained(0.05, 0.09, 0.02), "better", "4.00 points better than the untuned 9.00 %"),
        (retrained(0.09, 0.05, 0.02), "worse", "4.00 points worse than the untuned 5.00 %"),
        (retrained(0.05, 0.09, 0.06), "level", "this may be chance"),
    ],
)
def test_a_retraining_is_judged_before_all_else_and_by_its_pairs(
    found: Retraining, tone: str, words: str
) -> None:
    verdict = job_verdict.judged(confirmed(0.5, 0.3, 0.01), None, None, None, found)
    assert verdict is not None
    assert (verdict.tone, verdict.value) == (
        tone,
        f"{100 * (0.05 if tone != 'worse' else 0.09):.2f} %",
    )
    assert words in verdict.comparison
    assert "3 seeds" in verdict.basis
    assert verdict.basis.endswith("hyperparameters of meta-iteration 3")


def test_the_first_window_of_an_online_job_is_no_untuned_run() -> None:
    job = samples.job(JobStatus.SUCCEEDED, 3)
    meta = job.spec.meta.model_copy(update={"mode": "online"})
    online = job.model_copy(update={"spec": job.spec.model_copy(update={"meta": meta})})
    first = samples.record(0).model_copy(update={"metrics": {"test_error": 0.5}})
    verdict = job_verdict.judged(online, first, None, None)
    assert verdict is not None
    assert verdict.tone == "unsure"
    assert "50.00" not in verdict.comparison
    assert "Retrain trains both" in verdict.comparison


def test_the_trend_is_told_only_beyond_its_noise() -> None:
    def level(iteration: int, mean: float) -> MetaIteration:
        band = Interval(mean=mean, low=mean - 0.1, high=mean + 0.1)
        return samples.record(iteration).model_copy(update={"smoothed": {"validation_loss": band}})

    def trend(was: float, now: float) -> str:
        verdict = job_verdict.judged(
            samples.job(done=3),
            None,
            level(0, was),
            level(2, now),
        )
        assert verdict is not None
        return verdict.trend

    assert "still falls over the last 2 meta-iterations: 1 to 0.5" in trend(1.0, 0.5)
    assert "rises" in trend(0.5, 1.0)
    assert "is level" in trend(0.5, 0.45)


def test_the_retraining_that_counts_is_of_the_best_hyperparameters() -> None:
    job = confirmed(0.5, 0.3, 0.01)
    asked = retrained(0.05, 0.09, 0.02).model_copy(update={"at_end": True})
    later = asked.model_copy(update={"id": "retraining_2", "at_end": False})
    of_another = asked.model_copy(update={"id": "retraining_3", "iteration": 1})
    running = later.model_copy(update={"id": "retraining_4", "report": None})
    assert job_verdict.counted(job, [running, of_another, later, asked]) == asked
    assert job_verdict.counted(job, [later]) == later
    assert job_verdict.counted(job, [running, of_another]) is None


def test_the_best_is_confirmed_although_the_draws_did_not_suffice_for_the_first() -> None:
    job = confirmed(0.11, 0.05, 0.01)
    assert job.confirmation is not None
    short = job.confirmation.model_copy(update={"first": None, "gain": None})
    first = samples.record(0).model_copy(update={"metrics": {"test_error": 0.5}})
    verdict = job_verdict.judged(job.model_copy(update={"confirmation": short}), first, None, None)
    assert verdict is not None
    assert verdict.basis.startswith("means of 9 training runs with fresh draws")
    assert "one training run without an interval" in verdict.comparison


def test_a_figure_of_an_unknown_direction_is_not_judged_where_another_is_known() -> None:
    found = retrained(0.05, 0.09, 0.02)
    assert found.report is not None
    figures = {"test_f1/macro": found.report.figures["test_error"]}
    undirected = found.model_copy(
        update={"report": found.report.model_copy(update={"figures": figures})}
    )
    verdict = job_verdict.judged(confirmed(0.5, 0.3, 0.01), None, None, None, undirected)
    assert verdict is not None
    assert (verdict.label, verdict.tone) == ("Test f1/macro", "unsure")
    figures["test_loss"] = found.report.figures["test_error"]
    verdict = job_verdict.judged(confirmed(0.5, 0.3, 0.01), None, None, None, undirected)
    assert verdict is not None
    assert (verdict.label, verdict.tone) == ("Test loss", "better")
