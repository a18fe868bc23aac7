"""The result of a job in words."""

from __future__ import annotations

from typing import Any

import pytest

from drmad_client.records.job import Best, JobRecord
from drmad_client.records.side_runs.confirmation import Confirmation, ConfirmedFigures, Interval
from drmad_client.records.status import JobStatus
from drmad_client.records.verdict import best_figures, confirmation
from tests.client import samples

FIGURES = {
    "validation_loss": Interval(mean=0.5, low=0.4375, high=0.5625),
    "test_error": Interval(mean=0.125, low=-0.01, high=0.2),
}


def job(status: JobStatus = JobStatus.SUCCEEDED, **changes: Any) -> JobRecord:
    best = Best(
        iteration=1,
        validation_loss=0.5,
        metrics={"test_error": 0.125, "test_loss": 0.75},
        intervals=FIGURES,
        draws=4,
    )
    first = ConfirmedFigures(iteration=0, draws=4, diverged=0, figures=FIGURES)
    found = Confirmation(
        iterations=3,
        runs=60.0,
        allowed=8,
        draws=8,
        best=first.model_copy(update={"iteration": 1, "diverged": 1}),
        first=first,
        gain=Interval(mean=0.25, low=-0.125, high=0.625),
    )
    return samples.job(status, 3, **{"best": best, "confirmation": found} | changes)


def test_figures_have_their_intervals() -> None:
    """A share below zero is no share."""
    expected = (
        "meta-iteration 2, validation loss 0.5 (0.4375 to 0.5625), "
        "test error 12.50 % (0.0 to 20.0 %)"
    )
    assert best_figures(job(), errors_only=True) == expected
    assert best_figures(job()) == f"{expected}, test loss 0.75"
    assert best_figures(samples.job()) == "–"


def test_confirmed_figures_say_from_what_they_come_and_what_was_gained() -> None:
    assert confirmation(job()) == (
        "mean of 4 fresh training runs; the mean of ten retrainings lies in the interval in 95 of "
        "100 cases; 1 of the 4 diverged; validation loss gained over meta-iteration 1: 0.25 "
        "(-0.125 to 0.625), which may be none"
    )


SMOOTHED = Best(iteration=1, validation_loss=0.5, intervals=FIGURES)
REFUSED = Confirmation(iterations=3, runs=6.0, allowed=0, reason="6 runs are too few")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"best": SMOOTHED, "confirmation": REFUSED}, "not confirmed: 6 runs are too few"),
        ({"best": SMOOTHED, "confirmation": None}, "not confirmed; the figures are smoothed"),
        ({"best": None, "confirmation": None}, ""),
        ({"best": Best(iteration=1, validation_loss=0.5), "confirmation": None}, ""),
    ],
)
def test_what_is_not_confirmed_says_so(changes: dict[str, Any], said: str) -> None:
    assert confirmation(job(**changes)) == said


def test_a_running_job_says_that_its_figures_are_smoothed() -> None:
    running = job(JobStatus.RUNNING, best=SMOOTHED, confirmation=None)
    assert "the job confirms it at its end" in confirmation(running)
